"""Predict many sound files in batches; expand folder names to files.

Comes in: names of files and folders, then a model. Goes out: a `Prediction` for each file, in order; that of an
unreadable file holds the reason. A long file is predicted from all its windows, but those of other files are computed
in the same batches as if it were short, so that its length changes no bit of them.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from earsight.calibration.apply import Pool, Raw
from earsight.data import audio
from earsight.data.audio import Wave
from earsight.data.decoders import needing_extra
from earsight.data.folders import left_out, sounds_below
from earsight.errors import AudioError, DataError, counted
from earsight.inference.model import CHUNK, Model, grouped
from earsight.inference.predictions import Prediction
from earsight.inference.ray_inference import RayInference
from earsight.parallel import in_order


def find_sounds(
    names: Sequence[str], *, stdin: TextIO, say: Callable[[str], None] = lambda note: None
) -> Iterator[str]:
    """Paths of sounds: files as they are named, folders searched for audio, ``-`` for lines of ``stdin``.

    Folders are searched before the first path is given, so that a mistake (DataError: none of what is named is a sound)
    shows before there is any output. ``say`` is called with lines on files that are left out for their endings, or
    need the extra decoder, and on folders without sounds beside others.
    """
    folders: dict[str, list[str]] = {}
    ignored: Counter[str] = Counter()
    for name in names:
        if name != "-" and Path(name).is_dir():
            # Data sets list folders named like a sound, to report them; here they are left out.
            folders[name] = [str(path) for path in sounds_below(Path(name), ignored) if not path.is_dir()]
            if not folders[name] and Path(name).suffix.lower() in audio.EXTENSIONS:
                folders[name] = [name]  # named like a sound: reported as the others are
    bare = [name for name, paths in folders.items() if not paths]
    if len(bare) == len(set(names)):
        found = "".join(f"; {note}" for note in left_out(ignored))
        raise DataError(f"{bare[0]}: no audio file below this folder; name the files, or another folder{found}")
    for name in bare:
        say(f"{name}: no audio file below this folder")
    del ignored["hidden"]  # what an operating system puts beside sounds is no news
    listed = [path for name in names if name != "-" for path in folders.get(name, (name,))]
    for note in (*left_out(ignored, companions=False), needing_extra(listed)):
        if note:
            say(note)
    # A list that Windows programs wrote begins with a byte order mark.
    marked = (line if number else _unmarked(line) for number, line in enumerate(stdin))
    lines = (line.rstrip("\r\n") for line in marked if line.strip())
    return chain.from_iterable(lines if name == "-" else folders.get(name, (name,)) for name in names)


def _unmarked(line: str) -> str:
    """The first line of a list without its byte order mark; `DataError` where that says UTF-16."""
    if line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        raise DataError("the list on standard input is UTF-16; send it as UTF-8, as by `iconv -f UTF-16 -t UTF-8`")
    return line.removeprefix("\ufeff")


MOST = 4
"""Groups of windows of a long file that its batch's thread goes through; what is longer is shared among all threads."""


def predict_clips(
    model: Model,
    paths: Iterable[str | Path],
    *,
    batch_size: int = 16,
    first: bool = False,
    damaged: bool = False,
    remote: RayInference | None = None,
) -> Iterator[Prediction]:
    """See `Classifier.predict_files`; with ``remote`` files are decoded here and classified on its cluster."""
    names = iter(paths)
    batches = iter(lambda: [str(name) for name in islice(names, batch_size)], [])
    if remote is None:
        # Each thread takes a batch from files to predictions, which is faster than a thread for each step.
        for clips in in_order(lambda batch: _predicted(model, batch, first=first, damaged=damaged), batches, ahead=2):
            for place in clips.unfinished:
                for raw in in_order(model.raw, clips.rest(place), ahead=2):
                    clips.pools[place].add(raw)
            yield from clips.predictions()
        return
    decoded = in_order(lambda batch: _Clips(model, batch, first=first, damaged=damaged), batches, ahead=4)
    for (clips, part), found in remote.map(Model.raw, _jobs(decoded)):
        if part == _END:
            yield from clips.predictions()
        elif found is not None and part == _FIRST:
            clips.add_first(found)
        elif found is not None:
            clips.pools[part].add(found)


def long_note(clips: int, seconds: float, *, calibrated: bool) -> str:
    """The line on clips that are longer than the model's window of so many seconds."""
    note = (
        f"{counted(clips, 'file')} longer than the model's window of {seconds:g} s classified whole, as the mean over "
        "windows (--first: only the first; --hop 1: when which class sounds)"
    )
    if calibrated:
        return note
    return note + (
        "; the model was calibrated on answers from one window, and what it fitted (temperature, and OOD threshold and "
        "prediction sets where it has them) may not hold for these"
    )


class _Clips:
    """A batch of decoded files: first windows of the readable ones, errors of the others, and what is long of them.

    ``waves`` are the first windows, ``unfinished`` the places of the files that have more windows than were gone
    through, and how many these are.
    """

    def __init__(self, model: Model, paths: list[str], *, first: bool, damaged: bool = False, most: int = 0) -> None:
        self.errors: dict[int, str] = {}
        self.damage: dict[int, tuple[str, float]] = {}
        self.left_out: dict[int, dict[str, float]] = {}
        self.pools: dict[int, Pool] = {}
        self.unfinished: dict[int, int] = {}
        self._model, self._paths, self._first, self._damaged = model, paths, first, damaged
        self._more: dict[int, list[Raw]] = {}
        waves: dict[int, Wave] = {}
        for place, path in enumerate(paths):
            try:
                waves[place] = self._decoded(place, path, most)
            except AudioError as error:
                self.errors[place] = error.reason
        self._places = list(waves)
        self._full = {place for place, wave in waves.items() if len(wave) >= model.samples}
        self.waves = np.stack([audio.fit(wave, model.samples) for wave in waves.values()]) if waves else None
        self._raw: Raw | None = None

    def _decoded(self, place: int, path: str, most: int) -> Wave:
        """The first window of a file; up to ``most`` groups of its further windows are computed at once."""
        with self._model.opened(path) as source:
            windows = source.windows(first=self._first, excuse=self._excuse(place))
            _, wave = next(windows)
            more = [self._model.raw(np.stack(group)) for group in islice(grouped(windows), most)]
            ended = next(windows, None) is None
            self.left_out[place] = source.loss.to_dict()
        if more or not ended:
            self.pools[place], self._more[place] = Pool(self._model.card), more
        if not ended:
            self.unfinished[place] = 1 + CHUNK * most
        return wave

    def rest(self, place: int) -> Iterator[NDArray[np.float32]]:
        """Waves (windows, samples) of an unfinished file, in groups; an error while it is read is its error."""
        try:
            with self._model.opened(self._paths[place]) as source:
                windows = source.windows(excuse=self._excuse(place))
                for group in grouped(islice(windows, self.unfinished[place], None)):
                    yield np.stack(group)
                self.left_out[place] = source.loss.to_dict()
        except AudioError as error:
            self.errors[place] = error.reason

    def _excuse(self, place: int) -> Callable[[str, float], None] | None:
        """What keeps a file's damage in place of raising it, where that was asked for."""
        return functools.partial(self._keep, place) if self._damaged else None

    def _keep(self, place: int, what: str, seconds: float) -> None:
        self.damage[place] = what, seconds

    def add_first(self, raw: Raw) -> None:
        """Take what the network gives for the first windows; before what it gives for others."""
        self._raw = raw
        for row, place in enumerate(self._places):
            if place in self.pools:
                for one in (raw.row(row), *self._more[place]):
                    self.pools[place].add(one)

    def predictions(self) -> Iterator[Prediction]:
        """A prediction for each file, once all is added."""
        found = dict(zip(self._places, self._model.predictions(self._raw) if self._raw else (), strict=True))
        for place, path in enumerate(self._paths):
            if place in self.errors:
                yield Prediction(path, (), (), self.errors[place])
                continue
            if place in self.pools:
                one = self._model.pooled(self.pools[place], name=path)
            else:
                one = replace(found[place], path=path)
                one = self._model.first_alone(one) if self._first and place in self._full else one
            what, seconds = self.damage.get(place, ("", None))
            yield replace(one, damage=what, read_seconds=seconds, left_out=self.left_out.get(place, {}))


def _predicted(model: Model, paths: list[str], *, first: bool, damaged: bool) -> _Clips:
    clips = _Clips(model, paths, first=first, damaged=damaged, most=MOST)
    if clips.waves is not None:
        clips.add_first(model.raw(clips.waves))
    return clips


_FIRST, _END = -1, -2
_Job = tuple[tuple[_Clips, int], NDArray[np.float32] | None]


def _jobs(decoded: Iterable[_Clips]) -> Iterator[_Job]:
    """The waves of batches for a cluster: `_FIRST` windows, those of the long file at each place, and an `_END`."""
    for clips in decoded:
        yield (clips, _FIRST), clips.waves
        for place in clips.unfinished:
            yield from (((clips, place), waves) for waves in clips.rest(place))
        yield (clips, _END), None
