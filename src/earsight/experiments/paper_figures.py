"""Figures 2 and 3 as a section of the report: similarity, sweeps over stages, attributions and boundaries.

Comes in: a `View` and finished runs. Goes out: a section as `earsight.experiments.paper_tables` makes them, with
``figures`` (title, path below the output folder, caption, rows of the table). What was computed from the same models
before is read from ``OUT/figures``. A figure whose data set was not given, or whose trials are not DONE, is left out,
with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from earsight.analysis.similarity import run_similarity, similarity_result
from earsight.analysis.sweeps import SWEEPS, sweep_result
from earsight.errors import AudioError, EarsightError, ModelError
from earsight.experiments.cells import Cell, section_cells, sweep_variants
from earsight.experiments.claims import similarity_claims, sweep_claims
from earsight.experiments.paper_tables import TITLES, View
from earsight.experiments.plan import run_folder
from earsight.experiments.scale import Figures
from earsight.files import content_digest, read_state, say_once, write_state
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

Bars = Callable[[str, str], AbstractContextManager[Callable[[int, int, str], None]]]
"""Makes a progress bar of a name, as `earsight.console.bar`; the bar is called with (done, in all, a note)."""

_NAMES = {"fusion": "Figure 2b", "freeze": "Figure 2c", "cutoff": "Model cutoff"}


@dataclass(frozen=True)
class _Sources:
    """Inputs of all figures: the view, the cells, and the two compared runs."""

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
class _Result:
    """One analysis: its figures and numbers, and the cells that it lacks."""

    figures: tuple[dict[str, Any], ...] = ()
    numbers: Any = None
    needs: tuple[Cell, ...] = ()


def make_figures(view: View, *, device: torch.device, bars: Bars) -> dict[str, Any]:
    """The section of the figures, as `paper_tables.make_section` makes sections, with ``figures`` and ``analyses``."""
    part = view.scale.figures
    cells = {cell.name: cell for cell in section_cells(view.scale, "figures", view.asked)} if part else {}
    section: dict[str, Any] = {"section": "figures", "title": TITLES["figures"], "scale": view.scale.name}
    section |= {"rows": [], "claims": [], "empty": [], "figures": [], "analyses": {}}
    if part is not None:
        pretrained, random = list(cells.values())[:2]
        sources = _Sources(view, part, cells, pretrained, random, device, bars)
        for name, make in _MAKERS.items():
            made = make(sources)
            section["figures"] += made.figures
            section["analyses"][name] = made.numbers
            if made.needs:
                section["empty"].append(_empty(sources, _TITLES[name], made.needs))
    numbers = {name: view.numbers(cell) for name, cell in cells.items()}
    section["cells"] = {name: found.to_dict() for name, found in numbers.items() if found}
    return section


def _similarity(sources: _Sources) -> _Result:
    both = (sources.pretrained, sources.random)
    lacking = _lacking(sources, both)
    if lacking:
        return _Result(needs=lacking)
    trials = {cell.name: sources.view.done(cell) for cell in both}
    state, earlier = (
        [[cell.name, *_state(sources.run(cell), trials[cell.name], by)] for cell in both]
        for by in (content_digest, lambda path: path.stat().st_mtime_ns)
    )
    saved = sources.folder / "similarity.json"
    result = _read_result(saved, state, earlier)
    if result is None:
        if not sources.has_sounds:
            return _Result(needs=both)
        found = []
        for cell in both:
            with sources.bars(f"similarity, {cell.name}", "clips") as shown:
                found.append(
                    run_similarity(
                        sources.run(cell),
                        data=sources.data(),
                        trials=trials[cell.name],
                        device=sources.device,
                        progress=shown,
                    )
                )
        result = similarity_result(found, pooled=False)
        _write_result(saved, state, result)
    path = sources.folder / "similarity.png"
    similarity_figure(result, path=path)
    caption = (
        "How alike each stage's outputs are before and after fine-tuning, on held-out clips: 1 is unchanged. "
        + " ".join(similarity_notes(result))
    )
    title, claims = "Figure 2a: what fine-tuning changed", similarity_claims(result)
    figure = _figure_entry(sources, title, path, caption, claims=claims, rows=_similarity_rows(result))
    return _Result((figure,), result)


def _similarity_rows(result: dict[str, Any]) -> list[dict[str, object]]:
    """SVCCA and CKA of both starts: the columns that fit a page."""
    starts = [{**run, "name": run["start"]} for run in result["runs"]]
    rows = similarity_rows({**result, "runs": starts})
    return [{key: value for key, value in row.items() if key.startswith(("stage", "SVCCA", "CKA"))} for row in rows]


def _sweep(kind: str) -> Callable[[_Sources], _Result]:
    def make(sources: _Sources) -> _Result:
        every = sweep_variants(kind, sources.view.scale, sources.view.asked)
        lacking = _lacking(sources, [sources.cells[item.folder] for item in every])
        names = {cell.name for cell in lacking}
        whole = [item for item in every if item.folder not in names]
        if len(whole) < 2 or not any(item.is_reference for item in whole):
            return _Result(needs=lacking)
        trials = sources.view.trials(sources.pretrained)
        result = sweep_result(kind, whole, trials, out=sources.view.out / "runs")
        path, about = sources.folder / f"{kind}.png", SWEEPS[kind]
        transfer_figure(result, path=path, title=about.title, axis_label=about.axis)
        title = f"{_NAMES[kind]}: {about.title.lower()}" if _NAMES[kind].startswith("Figure") else about.title
        caption, claims = " ".join(transfer_notes(result)), sweep_claims(result)
        figure = _figure_entry(sources, title, path, caption, claims=claims, rows=transfer_rows(result))
        return _Result((figure,), result, lacking)

    return make


def _explained(sources: _Sources) -> _Result:
    cell = sources.pretrained
    if not sources.view.done(cell) or not sources.has_sounds:
        return _Result(needs=(cell,))
    done = sources.view.done(cell)
    first = next(
        one
        for one in held_out(sources.run(cell), data=sources.data(), seed=done[0].seed)
        if Trial(one.fold, one.seed) == done[0]
    )
    places = first.sample(sources.part.explained).tolist()
    origin = made_from(first.model, label=None, curves=True, seed=0)
    figures, numbers = [], []
    with sources.bars("explaining", "sounds") as shown:
        for number, place in enumerate(places):
            sound, name = first.files[place], Path(first.clips[place]).stem
            shown(number, len(places), name)
            found = read_explained(sources.folder / "explained", name, sound=str(sound), origin=origin)
            if found is None:
                try:
                    explanation = load_classifier(first.model, device=sources.device).explain(str(sound), curves=True)
                except (AudioError, ModelError) as error:
                    numbers.append({"path": str(sound), "failed": str(error)})
                    continue
                found = write_explained(explanation, sources.folder / "explained", name, origin=origin)
            label = first.classes[int(first.labels[place])]
            title = f"Figure 3: {name}, {label.replace('_', ' ')}"
            caption = _explained_caption(found, label, first.fold)
            figures.append(_figure_entry(sources, title, Path(found["files"]["figure"]), caption))
            numbers.append({key: value for key, value in found.items() if key not in ("files", "made_from")})
        shown(len(places), len(places), "")
    return _Result(tuple(figures), numbers)


def _explained_caption(found: dict[str, Any], label: str, fold: int) -> str:
    """Caption of an explanation: its sound and class, its completeness and its faithfulness."""
    complete, audible = found["completeness"], found["audible"]
    called = "rightly" if found["label"] == label else f"wrongly, as {found['label'].replace('_', ' ')},"
    return (
        f"Named {called} by a network that never saw it (fold {fold}), with {100 * found['probability']:.0f} %. "
        f"Attributions add up to {complete['sum_of_attributions']:.3g}, the scores differ by "
        f"{complete['difference']:.3g} ({100 * complete['error']:.2f} % off). Probability with only what was used: "
        f"{100 * audible['used_probability']:.0f} %, without it: {100 * audible['unused_probability']:.0f} %. "
        f"{found['faithfulness']['verdict']}"
    )


def _boundaries(sources: _Sources) -> _Result:
    cell = sources.pretrained
    done = sources.view.done(cell)
    if not done or not sources.has_sounds:
        return _Result(needs=(cell,))
    with sources.bars("boundaries", "clips") as shown:
        found = observe_boundaries(
            sources.run(cell),
            data=sources.data(),
            seed=done[0].seed,
            clips=sources.part.observed,
            device=sources.device,
            progress=shown,
        )
    path = sources.folder / "boundaries.png"
    boundaries_figure(found, path=path)
    counts = found["clips"]
    caption = (
        f"Where attributions lie, over {counts['measured']} held-out clips: correlations with the spectrogram's "
        "gradient and loudness, and density by place, against the same attributions moved in time; 95 % intervals over "
        "clips."
    )
    numbers = {key: value for key, value in found.items() if key != "rows"}
    title, rows = "Attributions and boundaries", boundary_rows(found)
    return _Result((_figure_entry(sources, title, path, caption, claims=found["verdict"], rows=rows),), numbers)


_MAKERS: dict[str, Callable[[_Sources], _Result]] = {
    "similarity": _similarity, "fusion": _sweep("fusion"), "freeze": _sweep("freeze"), "cutoff": _sweep("cutoff"),
    "explained": _explained, "boundaries": _boundaries,
}  # fmt: skip
_TITLES = {"similarity": "Figure 2a", **_NAMES, "explained": "Figure 3", "boundaries": "Boundaries"}


def _lacking(sources: _Sources, cells: Sequence[Cell]) -> tuple[Cell, ...]:
    return tuple(cell for cell in cells if len(sources.view.done(cell)) < len(sources.view.trials(cell)))


def _empty(sources: _Sources, title: str, needs: Sequence[Cell]) -> dict[str, Any]:
    """The entry of an analysis that lacks cells, with the one command that runs them."""
    view, first, base = sources.view, needs[0], sources.pretrained.name
    names = list(dict.fromkeys([base, *(cell.name for cell in needs)]))
    fields = {f"{base}-{sweep.field}-*" for sweep in SWEEPS.values()}
    # One pattern covers a sweep: its DONE trials are not run again.
    names = list(dict.fromkeys(next((f for f in fields if fnmatchcase(name, f)), name) for name in names))
    return {
        "cell": title,
        "done": sum(len(view.done(cell)) for cell in needs),
        "trials": sum(len(view.trials(cell)) for cell in needs),
        "why": view.why(first),
        "command": view.command(first, "figures", only=names),
    }


def _figure_entry(
    sources: _Sources,
    title: str,
    path: Path,
    caption: str,
    *,
    claims: Sequence[str] = (),
    rows: Sequence[dict[str, object]] = (),
) -> dict[str, Any]:
    place = path.relative_to(sources.view.out).as_posix()
    return {"title": title, "path": place, "caption": caption, "claims": list(claims), "rows": list(rows)}


def _state(run: Path, trials: Sequence[Trial], by: Callable[[Path], object]) -> list[Any]:
    """Name and size of the models of some trials, and a third thing by which they are known."""
    models = [trial.folder(run) / "model.safetensors" for trial in trials]
    return [[str(model.relative_to(run)), model.stat().st_size, by(model)] for model in models]


def _read_result(path: Path, state: list[Any], earlier: list[Any]) -> dict[str, Any] | None:
    """The earlier result for the same models; None if there is none. Earlier versions knew models by their times."""
    if not path.is_file():
        return None
    try:
        found = read_state(path, {"made_from": list, "result": dict}, remedy="")
        if found["made_from"] == earlier:
            say_once(f"{path}: of an earlier version; whether its models were exchanged since cannot be checked")
        return found["result"] if found["made_from"] in (state, earlier) else None
    except EarsightError:
        return None  # of another version, or broken: it is computed anew


def _write_result(path: Path, state: list[Any], result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_state(path, {"made_from": state, "result": result}, indent=1)
