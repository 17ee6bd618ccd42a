"""Two commands for each verb, as its ``--help`` ends with them; the tests parse and run them."""

from __future__ import annotations

_MODEL = "runs/mine/model.safetensors"

EXAMPLES: dict[str, dict[str, str]] = {
    "quickstart": {
        "earsight quickstart": "everything once, on sounds that it makes itself",
        "earsight quickstart --out first --epochs 1": "the same, quicker and less exact",
    },
    "check": {
        "earsight check my_sounds/": "my_sounds/ has a folder for each class",
        "earsight check my_sounds/ --sources sources.csv": "which clips may be of one recording, as a csv to mend",
    },
    "prepare": {
        "earsight prepare my_sounds/": "training then starts at once",
        "earsight prepare my_sounds/ --cache cache/": "kept in a folder of your own",
    },
    "download": {
        "earsight download esc50 data/": "ESC-50, into data/",
        "earsight download weights densenet201": "ImageNet weights of a network, checked",
    },
    "train": {
        "earsight train my_sounds/ --out runs/mine": "one model, tested on a fifth of the clips",
        "earsight train my_sounds/ --out runs/longer --set training.epochs=40": "with another choice of the recipe",
    },
    "crossval": {
        "earsight crossval my_sounds/ --out runs/folds": "each of five folds held out in turn",
        "earsight crossval path/to/ESC-50 --out runs/esc50 --seeds 3 --jobs 2": "official folds, three networks each",
    },
    "ensemble": {
        "earsight ensemble runs/esc50": "the seeds of a run together, as one model file",
        "earsight ensemble runs/esc50 --method greedy --out runs/chosen": "of those that help",
    },
    "distil": {
        "earsight distil runs/esc50": "one network that learns from the seeds of a run",
        "earsight distil runs/chosen --set distillation.temperature=4": "from an ensemble, whose answers are softened",
    },
    "tune": {
        "earsight tune default my_sounds/ --grid training.learning_rate=1e-3,3e-4": "two learning rates, on Ray",
        "earsight tune default my_sounds/ --on local --random 'augment.mixup=uniform(0,1)' --samples 2": "without Ray",
    },
    "recipe list": {
        "earsight recipe list": "names, and a line on each",
        "earsight recipe list --json": "the same for a program",
    },
    "recipe show": {
        "earsight recipe show": "every field of the default recipe",
        "earsight recipe show default --set training.epochs=40 > my.yaml": "a file to change and to train with",
    },
    "evaluate": {
        f"earsight evaluate {_MODEL} my_sounds/": "on the clips that were held out",
        f"earsight evaluate {_MODEL} others.csv --json": "on clips of your own table",
    },
    "summary": {
        "earsight summary runs/mine": "its accuracy, with an interval",
        "earsight summary runs/mine --json": "the same for a program",
    },
    "compare": {
        "earsight compare runs/mine runs/longer": "is the difference more than noise?",
        "earsight compare runs/mine runs/longer --json": "the same for a program",
    },
    "report": {
        "earsight report runs/mine": "one page to mail, with the mistakes to hear",
        "earsight report runs/mine runs/longer --out both.html": "two runs, compared",
    },
    "calibrate": {
        "earsight calibrate runs/mine --false-alarms 0.02": "call fewer known sounds unknown",
        "earsight calibrate runs/mine --threshold-rule precision=0.9": "a threshold for each class",
    },
    "predict": {
        f"earsight predict {_MODEL} new/*.wav": "a line for each file",
        f"earsight predict {_MODEL} new/ --hop 1 --format raven --out tables/": "events in recordings, for Raven",
    },
    "explain": {
        f"earsight explain {_MODEL} new/one.wav": "figures and sounds in explanations/",
        f"earsight explain {_MODEL} new/ --no-curves --json": "quicker, without how faithful they are",
    },
    "analyze similarity": {
        "earsight analyze similarity runs/folds": "what fine-tuning changed, stage by stage",
        "earsight analyze similarity runs/folds runs/random": "beside a run from random weights",
    },
    "analyze fusion": {
        "earsight analyze fusion my_sounds/ --out runs/stages": "which stages need pretrained weights",
        "earsight analyze fusion my_sounds/ --out runs/stages --stages block2,block3 --folds 1": "a part of it",
    },
    "analyze freeze": {
        "earsight analyze freeze my_sounds/ --out runs/stages": "which stages need fine-tuning",
        "earsight analyze freeze my_sounds/ --out runs/stages --stages block2 --folds 1": "a part of it",
    },
    "analyze cutoff": {
        "earsight analyze cutoff my_sounds/ --out runs/stages": "which stages are needed at all",
        "earsight analyze cutoff my_sounds/ --out runs/stages --stages block2 --folds 1": "a part of it",
    },
    "analyze boundaries": {
        "earsight analyze boundaries runs/folds": "over all held-out clips; may take hours",
        "earsight analyze boundaries runs/folds --clips 2 --max-steps 64": "a quick look",
    },
    "serve": {
        f"earsight serve {_MODEL}": "a service, and a page at http://127.0.0.1:8000",
        f"earsight serve {_MODEL} --host 0.0.0.0 --port 80 --allow-host sounds.example.org": "for others too",
    },
    "export": {
        f"earsight export {_MODEL}": "an .onnx file beside it",
        f"earsight export {_MODEL} --out mine.onnx --data my_sounds/": "compared on your clips as well",
    },
    "push": {
        "earsight push runs/mine owner/name --license cc-by-4.0": "after `hf auth login`",
        f"earsight push {_MODEL} owner/name --page": "look at the page first; nothing is sent",
    },
    "reproduce": {
        "earsight reproduce all path/to/ESC-50 --plan": "what all of it would cost here",
        "earsight reproduce table1 path/to/ESC-50 --out paper": "one table",
    },
}
"""Of each verb, by its words: commands and what they are for."""


def examples_text(name: str) -> str:
    """The examples of a verb, after the sign by which click prints a paragraph line for line."""
    lines = [f"  {command}\n      {about}" for command, about in EXAMPLES[name].items()]
    return "\b\nExamples:\n" + "\n".join(lines)
