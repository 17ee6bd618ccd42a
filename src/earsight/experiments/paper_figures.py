"""The section of Figures 2 and 3: what the network kept, what it needs, and what it looks at.

Comes in: a `View` and finished runs. Goes out: a section as `earsight.experiments.paper_tables` has them, with
``figures`` (title, path below the output folder, caption, rows of the table). What was computed from the same models
before is taken from ``OUT/figures``. A figure whose data set was not given, or whose trials are not DONE, is left out,
with its command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from earsight.analysis.similarity import run_similarity, similarity_result
from earsight.analysis.sweeps import SWEEPS, sweep_result
from earsight.errors import AudioError, ModelError
from earsight.experiments.cells import Cell, section_cells, sweep_variants
from earsight.experiments.claims import similarity_claims, sweep_claims
from earsight.experiments.paper_tables import TITLES, View
from earsight.experiments.plan import run_folder
from earsight.experiments.scale import Figures
from earsight.files import replace_text
from earsight.inference.classifier import load_classifier
from earsight.inference.observation import observe_boundaries
from earsight.reports.analysis_figures import (
    boundaries_figure,
    boundary_rows,
    similarity_figure,
    similarity_notes,
    similarity_rows,
    transfer_figure,
    transfer_notes,
    transfer_rows,
)
from earsight.reports.explanations import made_from, read_explained, write_explained
from earsight.training.heldout import held_out
from earsight.training.trial import Trial

Bars = Callable[[str], AbstractContextManager[Callable[[int, int, str], None]]]
"""From the name of what takes long to a bar for as long as it lasts, which takes (done, of all, a note)."""

_NAMES = {"fusion": "Figure 2b", "freeze": "Figure 2c", "cutoff": "Model cutoff"}


@dataclass(frozen=True)
class _Desk:
    """What all figures are made from."""

    view: View
    part: Figures
    cells: dict[str, Cell]
    pretrained: Cell
    random: Cell
    device: torch.device
    bars: Bars

    @property
    def folder(self) -> Path:
        return self.view.out / "figures"

    @property
    def has_sounds(self) -> bool:
        return self.part.data in self.view.found

    def run(self, cell: Cell) -> Path:
        return run_folder(self.view.out, cell.name)

    def data(self) -> Path:
        return self.view.found[self.part.data].path


@dataclass(frozen=True)
class _Made:
    """One or several figures of one analysis and the numbers behind; of what is not whole, the cells it needs."""

    figures: tuple[dict[str, Any], ...] = ()
    numbers: Any = None
    needs: tuple[Cell, ...] = ()


def make_figures(view: View, *, device: torch.device, bars: Bars) -> dict[str, Any]:
    """The figures' section.

    Parameters
    ----------
    view : View
    device : torch.device
    bars : callable
        As `earsight.console.bar`.

    Returns
    -------
    dict
        As `earsight.experiments.paper_tables.make_section` gives it, with ``figures`` and ``analyses`` (the numbers).
    """
    part = view.scale.figures
    cells = {cell.name: cell for cell in section_cells(view.scale, "figures", view.asked)} if part else {}
    section: dict[str, Any] = {"section": "figures", "title": TITLES["figures"], "scale": view.scale.name}
    section |= {"rows": [], "claims": [], "empty": [], "figures": [], "analyses": {}}
    if part is not None:
        pretrained, random = list(cells.values())[:2]
        desk = _Desk(view, part, cells, pretrained, random, device, bars)
        for name, make in _MAKERS.items():
            made = make(desk)
            section["figures"] += made.figures
            section["analyses"][name] = made.numbers
            if made.needs:
                section["empty"].append(_empty(desk, _TITLES[name], made.needs))
    numbers = {name: view.numbers(cell) for name, cell in cells.items()}
    section["cells"] = {name: found.to_dict() for name, found in numbers.items() if found}
    return section


def _similarity(desk: _Desk) -> _Made:
    both = (desk.pretrained, desk.random)
    lacking = _lacking(desk, both)
    if lacking:
        return _Made(needs=lacking)
    trials = {cell.name: desk.view.done(cell) for cell in both}
    state = [[cell.name, *_state(desk.run(cell), trials[cell.name])] for cell in both]
    kept = desk.folder / "similarity.json"
    result = _kept(kept, state)
    if result is None:
        if not desk.has_sounds:
            return _Made(needs=both)
        found = []
        for cell in both:
            with desk.bars(f"similarity, {cell.name}") as shown:
                found.append(
                    run_similarity(
                        desk.run(cell),
                        data=desk.data(),
                        trials=trials[cell.name],
                        device=desk.device,
                        progress=shown,
                    )
                )
        result = similarity_result(found, pooled=False)
        _keep(kept, state, result)
    path = desk.folder / "similarity.png"
    similarity_figure(result, path=path)
    caption = (
        "How alike each stage's outputs are before and after fine-tuning, on held-out clips: 1 is unchanged. "
        + " ".join(similarity_notes(result))
    )
    title, claims = "Figure 2a: what fine-tuning changed", similarity_claims(result)
    return _Made((_figure_file(desk, title, path, caption, claims=claims, rows=_similarity_rows(result)),), result)


def _similarity_rows(result: dict[str, Any]) -> list[dict[str, object]]:
    """The columns that fit a page: SVCCA and CKA of both starts."""
    starts = [{**run, "name": run["start"]} for run in result["runs"]]
    rows = similarity_rows({**result, "runs": starts})
    return [{key: value for key, value in row.items() if key.startswith(("stage", "SVCCA", "CKA"))} for row in rows]


def _sweep(kind: str) -> Callable[[_Desk], _Made]:
    def make(desk: _Desk) -> _Made:
        every = sweep_variants(kind, desk.view.scale, desk.view.asked)
        lacking = _lacking(desk, [desk.cells[item.folder] for item in every])
        names = {cell.name for cell in lacking}
        whole = [item for item in every if item.folder not in names]
        if len(whole) < 2 or not any(item.is_reference for item in whole):
            return _Made(needs=lacking)
        trials = desk.view.trials(desk.pretrained)
        result = sweep_result(kind, whole, trials, out=desk.view.out / "runs")
        path, about = desk.folder / f"{kind}.png", SWEEPS[kind]
        transfer_figure(result, path=path, title=about.title, axis_label=about.axis)
        title = f"{_NAMES[kind]}: {about.title.lower()}" if _NAMES[kind].startswith("Figure") else about.title
        caption, claims = " ".join(transfer_notes(result)), sweep_claims(result)
        figure = _figure_file(desk, title, path, caption, claims=claims, rows=transfer_rows(result))
        return _Made((figure,), result, lacking)

    return make


def _explained(desk: _Desk) -> _Made:
    cell = desk.pretrained
    if not desk.view.done(cell) or not desk.has_sounds:
        return _Made(needs=(cell,))
    done = desk.view.done(cell)
    first = next(
        one
        for one in held_out(desk.run(cell), data=desk.data(), seed=done[0].seed)
        if Trial(one.fold, one.seed) == done[0]
    )
    places = first.sample(desk.part.explained).tolist()
    origin = made_from(first.model, label=None, curves=True, seed=0)
    figures, numbers = [], []
    with desk.bars("explaining") as shown:
        for number, place in enumerate(places):
            sound, name = first.files[place], Path(first.clips[place]).stem
            shown(number, len(places), name)
            found = read_explained(desk.folder / "explained", name, sound=str(sound), origin=origin)
            if found is None:
                try:
                    explanation = load_classifier(first.model, device=desk.device).explain(str(sound), curves=True)
                except (AudioError, ModelError) as error:
                    numbers.append({"path": str(sound), "failed": str(error)})
                    continue
                found = write_explained(explanation, desk.folder / "explained", name, origin=origin)
            label = first.classes[int(first.labels[place])]
            title, caption = (
                f"Figure 3: {name}, {label.replace('_', ' ')}",
                _explained_caption(found, label, first.fold),
            )
            figures.append(_figure_file(desk, title, Path(found["files"]["figure"]), caption))
            numbers.append({key: value for key, value in found.items() if key not in ("files", "made_from")})
        shown(len(places), len(places), "")
    return _Made(tuple(figures), numbers)


def _explained_caption(found: dict[str, Any], label: str, fold: int) -> str:
    """What an explanation is of, whether it is complete, and whether to believe it."""
    complete, audible = found["completeness"], found["audible"]
    called = "rightly" if found["label"] == label else f"wrongly, as {found['label'].replace('_', ' ')},"
    return (
        f"Named {called} by a network that never saw it (fold {fold}), with {100 * found['probability']:.0f} %. "
        f"Attributions add up to {complete['sum_of_attributions']:.3g}, the scores differ by "
        f"{complete['difference']:.3g} ({100 * complete['error']:.2f} % off). Heard with only what was used: "
        f"{100 * audible['used_probability']:.0f} %, without it: {100 * audible['unused_probability']:.0f} %. "
        f"{found['faithfulness']['verdict']}"
    )


def _boundaries(desk: _Desk) -> _Made:
    cell = desk.pretrained
    done = desk.view.done(cell)
    if not done or not desk.has_sounds:
        return _Made(needs=(cell,))
    with desk.bars("boundaries") as shown:
        found = observe_boundaries(
            desk.run(cell),
            data=desk.data(),
            seed=done[0].seed,
            clips=desk.part.observed,
            device=desk.device,
            progress=shown,
        )
    path = desk.folder / "boundaries.png"
    boundaries_figure(found, path=path)
    counts = found["clips"]
    caption = (
        f"Where attributions lie, over {counts['measured']} held-out clips: correlations with the figure's gradient "
        "and loudness, and density by place, against the same attributions moved in time; 95 % intervals over clips."
    )
    numbers = {key: value for key, value in found.items() if key != "rows"}
    title, rows = "Attributions and boundaries", boundary_rows(found)
    return _Made((_figure_file(desk, title, path, caption, claims=found["verdict"], rows=rows),), numbers)


_MAKERS: dict[str, Callable[[_Desk], _Made]] = {
    "similarity": _similarity,
    "fusion": _sweep("fusion"),
    "freeze": _sweep("freeze"),
    "cutoff": _sweep("cutoff"),
    "explained": _explained,
    "boundaries": _boundaries,
}
_TITLES = {"similarity": "Figure 2a", **_NAMES, "explained": "Figure 3", "boundaries": "Boundaries"}


def _lacking(desk: _Desk, cells: Sequence[Cell]) -> tuple[Cell, ...]:
    return tuple(cell for cell in cells if len(desk.view.done(cell)) < len(desk.view.trials(cell)))


def _empty(desk: _Desk, title: str, needs: Sequence[Cell]) -> dict[str, Any]:
    """The entry of an analysis that lacks cells, with the one command that runs them."""
    view, first, base = desk.view, needs[0], desk.pretrained.name
    names = list(dict.fromkeys([base, *(cell.name for cell in needs)]))
    fields = {f"{base}-{sweep.field}-*" for sweep in SWEEPS.values()}
    # A sweep is one pattern: what of it is DONE is not run again.
    names = list(dict.fromkeys(next((f for f in fields if fnmatchcase(name, f)), name) for name in names))
    return {
        "cell": title,
        "done": sum(len(view.done(cell)) for cell in needs),
        "trials": sum(len(view.trials(cell)) for cell in needs),
        "why": view.why(first),
        "command": view.command(first, "figures", only=names),
    }


def _figure_file(
    desk: _Desk,
    title: str,
    path: Path,
    caption: str,
    *,
    claims: Sequence[str] = (),
    rows: Sequence[dict[str, object]] = (),
) -> dict[str, Any]:
    place = path.relative_to(desk.view.out).as_posix()
    return {"title": title, "path": place, "caption": caption, "claims": list(claims), "rows": list(rows)}


def _state(run: Path, trials: Sequence[Trial]) -> list[Any]:
    """Names the models of some trials as they are now."""
    models = [trial.folder(run) / "model.safetensors" for trial in trials]
    return [[str(model.relative_to(run)), model.stat().st_size, model.stat().st_mtime_ns] for model in models]


def _kept(path: Path, state: list[Any]) -> dict[str, Any] | None:
    """What was computed from the same models before."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["result"] if found["made_from"] == state else None
    except (ValueError, KeyError, TypeError):
        return None  # of another version, or broken: it is computed anew


def _keep(path: Path, state: list[Any], result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({"made_from": state, "result": result}, indent=1) + "\n")
