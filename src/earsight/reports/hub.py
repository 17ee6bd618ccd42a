"""A model on the Hugging Face hub: its page there, made from the run, its upload, and its way back.

Comes in: a model file, with the run folder that it lies in. Goes out: a repository with ``model.safetensors``, the
page ``README.md`` (the hub's "model card") and ``recipe.yaml``. What is fetched is the model file alone, which holds
no code, and is checked as every model file is. ``$HF_ENDPOINT`` names another hub, as huggingface_hub has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml

from earsight.errors import ModelError, RunError, counted
from earsight.evaluation.summary import Predictions, read_predictions, read_run, summarize
from earsight.inference.formats import harmless
from earsight.library_output import load_tqdm
from earsight.models.card import ModelCard
from earsight.models.modelfile import load_card
from earsight.models.weights import one_line, reachable
from earsight.reports.tables import markdown, several_rows, summary_notes, summary_rows
from earsight.training.heldout import foreign
from earsight.version import __version__

MODEL = "model.safetensors"
_NAME = re.compile(r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
"""``hf://owner/name``, or ``hf:/owner/name`` as a `Path` writes it; a branch, tag or commit may follow an @."""
_MARKS = re.compile(r"[<>\[\]`*|\\]")


def fetch(name: str | Path) -> Path:
    """The model file of ``hf://owner/name`` or ``hf://owner/name@revision``, out of the hub's cache or fetched into it.

    ModelError if the name is none; if the hub cannot be reached and the cache does not have it; if there is no such
    model, or no model file in it.
    """
    load_tqdm()
    from huggingface_hub import constants, hf_hub_download

    found = _NAME.fullmatch(str(name))
    if found is None:
        raise ModelError(f"{name}: expected hf://owner/name, or hf://owner/name@revision")
    offline = constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)
    with _in_words(f"hf://{found['repository']}"):
        return Path(hf_hub_download(found["repository"], MODEL, revision=found["revision"], local_files_only=offline))


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Turn the hub's and the network's errors into a `ModelError` of one line."""
    from huggingface_hub import errors

    network = cast("tuple[type[Exception], ...]", (OSError, *errors.HfHubHTTPError.__bases__))
    login = "log in with `hf auth login`, or set $HF_TOKEN"
    try:
        yield
    except errors.HFValidationError as error:
        raise ModelError(f"{what}: {one_line(error)}; expected owner/name") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{what}: has no such branch, tag or commit") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"{what}: there is no such model on the hub, or it is private; {login}") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{what}: the hub cannot be reached, and its cache here does not have the model; "
            "try again with a network, or bring the model file and name it"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"{what}: has no {MODEL}, so it is no model of earsight") from error
    except network as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
            raise ModelError(f"{what}: the hub does not let you in; {login} with the right to write") from error
        raise ModelError(f"{what}: the hub did not do it ({one_line(error)})") from error


def model_of(place: Path) -> Path:
    """The model file that is meant by a file, or by a run folder."""
    if not place.is_dir():
        return place
    if not (place / MODEL).is_file():
        raise RunError(f"{place}: has a model a fold; name one, as {place}/fold-1/seed-0/{MODEL}")
    return place / MODEL


def push(
    place: Path, repository: str, *, licence: str = "", data_licence: str = "", private: bool = False
) -> dict[str, Any]:
    """Put a model file, or that of a run folder, on the hub, with its page; returns what was written where.

    ModelError if it is no whole model file, or the hub refuses it or cannot be reached; RunError if the run folder has
    no model at its top, or its trials are not those of the model.
    """
    load_tqdm()
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    model = model_of(place)
    page = model_page(model, repository, licence=licence, data_licence=data_licence)
    recipe = _networks(load_card(model))[0].recipe.to_yaml()
    parts: dict[str, Path | bytes] = {MODEL: model, "README.md": page.encode(), "recipe.yaml": recipe.encode()}
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise ModelError(f"{repository}: the hub ({constants.ENDPOINT}) cannot be reached; nothing was sent")
    api = HfApi(library_name="earsight", library_version=__version__)
    with _in_words(repository):
        api.create_repo(repository, exist_ok=True, private=private)
        done = api.create_commit(
            repository,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in parts.items()],
            commit_message=f"Model of earsight {__version__}",
        )
    return {
        "model": str(model),
        "files": list(parts),
        "repository": repository,
        "commit": done.oid,
        "url": done.commit_url,
    }


def _networks(card: ModelCard) -> tuple[ModelCard, ...]:
    return card.members or (card,)


def _trials(model: Path, card: ModelCard) -> list[Predictions]:
    """The trials beside or below a model file, whose held-out clips are its figures; none of a file that lies alone."""
    folder = model.parent
    if (folder / "predictions.npz").is_file():
        found, top = [read_predictions(folder / "predictions.npz")], False
    elif any(folder.glob("fold-*/seed-*/DONE")):
        found, top = read_run(folder, several=True), True
    else:
        return []
    if wrong := foreign(model, card, [trial.about for trial in found], top=top):
        raise RunError(f"{model}: {wrong}; name the model file where its run wrote it")
    return found


def model_page(model: Path, repository: str, *, licence: str = "", data_licence: str = "") -> str:
    """The page of a model on the hub, in Markdown below the metadata that the hub reads; see `push`."""
    card = load_card(model)
    trials = _trials(model, card)
    summary = summarize(trials, machine={}) if trials else None
    one, origin = _networks(card)[0], card.trained_on
    features, backbone = one.recipe.features, one.recipe.backbone
    network = f"{counted(len(card.members), 'network')} of {backbone.name}" if card.members else backbone.name
    starts = {"none": "random weights", "imagenet": "ImageNet weights"}
    start = starts.get(str(backbone.weights), "weights of a file")
    low, high = features.band_hz
    parts = [
        f"---\n{yaml.safe_dump(_metadata(card, repository, licence, summary), sort_keys=False)}---",
        f"# {repository.partition('/')[2]}",
        f"Tells {counted(len(card.classes), 'class')} of sounds apart"
        f"{', several of which may sound together' if card.several else ''}: {network}, fine-tuned from {start} on "
        f"spectrograms by earsight {origin.get('earsight') or __version__}.",
        "## Use",
        f'```python\nimport earsight\n\nclassifier = earsight.load("hf://{repository}")\n'
        'found = classifier.predict("new.wav")\nprint(found.label, found.probabilities[0])\n```',
        f"On the command line: `earsight predict hf://{repository} new.wav`. It takes sounds of any length and rate, "
        f"and cuts them into windows of {features.clip_seconds:g} s at {features.rate} Hz, {low:g} to {high:g} Hz "
        "of them. The file holds weights and JSON, and no code.",
        f"Classes: {', '.join(map(_code, card.classes))}.",
        "## Data",
        _data(card, summary),
        f"Licence of the data: {_plain(data_licence) or 'not stated by who put this model here'}.",
        "## Figures on clips that it was not trained on",
        *_figures(card, summary),
        "## Recipe",
        f"```yaml\n{one.recipe.to_yaml()}```",
        "## Licence",
        f"Of this model: {_plain(licence) or 'not stated by who put it here, so nobody else may use it'}. Its weights "
        f"began as {start} of {backbone.name}; what their licence asks for holds here too.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _metadata(card: ModelCard, repository: str, licence: str, summary: dict[str, Any] | None) -> dict[str, Any]:
    """What the hub reads: how to list the model, and its figure."""
    backbone = _networks(card)[0].recipe.backbone.name
    found: dict[str, Any] = {
        "license": licence or "unknown",
        "library_name": "earsight",
        "pipeline_tag": "audio-classification",
        "tags": ["earsight", "audio", "spectrogram", backbone],
    }
    if summary is not None:
        key, name = ("average_precision", "mAP") if summary.get("several") else ("accuracy", "accuracy")
        score, data = summary[key], _plain(summary["dataset"]["name"])
        low, high = (100 * limit for limit in score["ci95"])
        metric = {
            "type": key,
            "value": round(100 * score["mean"], 2),
            "name": f"{name} % (95 %: {low:.1f} to {high:.1f})",
        }
        task = {"type": "audio-classification", "name": "Audio classification"}
        dataset = {"type": re.sub(r"[^\w.-]+", "-", data) or "data", "name": data}
        result = {"task": task, "dataset": dataset, "metrics": [metric]}
        found["model-index"] = [{"name": repository.partition("/")[2], "results": [result]}]
    return found


def _data(card: ModelCard, summary: dict[str, Any] | None) -> str:
    origin = _networks(card)[0].trained_on
    clips = f"{counted(origin['clips'], 'clip')} of " if origin.get("clips") is not None else ""
    text = f"Trained on {clips}{_code(str(origin.get('dataset') or 'a data set that the file does not name'))}"
    text += f" (digest {_code(str(origin['digest']))})" if origin.get("digest") else ""
    held = summary["dataset"].get("held_out") if summary else None
    how = f"a part of it ({_plain(str(held['kind']))})" if held else "folds of it"
    return f"{text}. Tested on {how} that the tested network was not trained on." if summary else f"{text}."


def _figures(card: ModelCard, summary: dict[str, Any] | None) -> list[str]:
    """The tables and sentences that `earsight summary` prints, and what calibration stands for."""
    if summary is None:
        key = next(
            (name for name in ("held_out_accuracy", "held_out_average_precision") if name in card.trained_on), ""
        )
        known = f"{key.removeprefix('held_out_').replace('_', ' ')} {100 * card.trained_on[key]:.1f} %" if key else ""
        return [
            f"{known.capitalize() or 'None are known'}: the model file came without its run, so without an interval."
        ]
    tables = [markdown(several_rows(summary, whole=False))] if summary.get("several") else []
    notes = [_plain(note) for note in summary_notes(summary)]
    if unknown := card.calibration.get("unknown"):
        notes.append(
            f"Sounds unlike all classes are answered unknown; {100 * unknown['rate']:g} % of known ones are too."
        )
    if sets := card.calibration.get("sets"):
        notes.append(f"Prediction sets hold the class of {100 * sets['coverage']:g} % of the sounds of known classes.")
    return [*tables, markdown(summary_rows(summary)), "\n".join(f"- {note}" for note in notes)]


def _plain(text: str) -> str:
    """A stranger's words within a sentence: on one line, without signs that Markdown or HTML obey."""
    return _MARKS.sub(" ", harmless(" ".join(text.split())))


def _code(name: str) -> str:
    """A stranger's name as code, which it cannot end."""
    inside = harmless(" ".join(name.split())).replace("`", "'")
    return f"`{inside or ' '}`"
