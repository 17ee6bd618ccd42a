"""The service behind HTTP: from an uploaded file to an answer.

Comes in: an `Upload` and a `Options`. Goes out: an `Answer`. The decoders, the batches and the one thread for
explanations live here, while `opened`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earsight.calibration.apply import Pool, Raw, card_probabilities, own_thresholds, threshold_of
from earsight.data import audio
from earsight.data.audio import Wave
from earsight.data.intake import loss_texts
from earsight.errors import AudioError, ModelError
from earsight.files import scratch_folder
from earsight.inference.classifier import Classifier
from earsight.inference.events import EventRules
from earsight.inference.predictions import NONE, Prediction
from earsight.serving.answers import Options, answer_of, mean_of
from earsight.serving.batching import Batcher
from earsight.serving.decoder_pool import Decoded, Decoders
from earsight.serving.limits import Limits
from earsight.serving.meters import Meters
from earsight.serving.refusals import Refusal, busy, unreadable
from earsight.serving.schemas import Answer, ExplanationBody, Waveform
from earsight.serving.uploads import Upload
from earsight.serving.views import explanation_of, spectrogram_of, waveform_of


class Service:
    """A classifier with its decoders and queues."""

    def __init__(self, classifier: Classifier, limits: Limits) -> None:
        self.classifier, self.limits = classifier, limits
        self.in_flight = 0
        self.meters = Meters(waiting=lambda: self._batcher.waiting, decoders=lambda: self.decoders.alive)
        self.decoders = Decoders(
            limits, features=classifier.card.recipe.features, on_end=lambda why: self.meters.ended.labels(why).inc()
        )
        self._batcher: Batcher[Tensor, Raw] = Batcher(
            self._compute,
            most=limits.batch,
            wait_seconds=limits.wait_seconds,
            coming=lambda: max(self.in_flight, self._windows),
            on_batch=self.meters.batch_size.observe,
        )
        # Each of these threads uses one core (as in `earsight.parallel`); the network's thread uses all.
        self._front_end = ThreadPoolExecutor(
            torch.get_num_threads(), "spectrogram", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._windows = self._explaining = 0
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self.folder = Path()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Run the decoders and threads for as long as the block runs."""
        with scratch_folder("earsight-serving-") as self.folder:
            try:
                await self.decoders.start()
                self._batcher.start()
                yield
            finally:
                await self._batcher.close()
                await self.decoders.close()
                for pool in (self._front_end, self._explainer):
                    pool.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Count a request as in flight; `Refusal` 503 if there are too many."""
        if self.in_flight >= self.limits.queue:
            raise busy(f"{self.in_flight} requests are in flight, which is all that this service takes", close=True)
        self.in_flight += 1
        self.meters.in_flight.set(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self.meters.in_flight.set(self.in_flight)

    async def predict(self, upload: Upload, options: Options) -> Answer:
        """The prediction for a file; `Refusal` if it is no sound, or breaks a limit."""
        clip = self.classifier.samples / self.classifier.sample_rate_hz
        began = time.perf_counter()
        try:
            decoded = await self.decoders.decode(
                upload.path,
                start=options.start,
                seconds=clip if options.one_window else None,
                window=None if options.one_window or options.hop else clip,
            )
        finally:
            self.meters.decode_seconds.observe(time.perf_counter() - began)
        starts = self._starts(decoded, options)
        raw = await self._raw(decoded, starts)
        rate = self.classifier.sample_rate_hz
        found = [(start / rate, self.classifier.predictions(one)[0]) for start, one in zip(starts, raw, strict=True)]
        whole = self._whole(found, raw, options)
        begin = 0 if options.hop else starts[self._strongest(raw, options.label or whole.label)]
        part = decoded.part(begin, self.classifier.samples)
        label = options.label or (whole.label if whole.windows > 1 else None)
        at = options.start + begin / rate
        explanation, notes = await self._explanation(part, label, options, start=at)
        features = self.classifier.card.recipe.features
        notes += [text for _, text in loss_texts([(upload.name, decoded.loss)], features, what="sound").values()]
        extras: dict[str, Any] = {"explanation": explanation, "notes": notes, "spectrogram": None, "waveform": None}
        if options.spectrogram:
            extras["spectrogram"] = await asyncio.to_thread(spectrogram_of, self.classifier, part, start=at)
            extras["waveform"] = await asyncio.to_thread(self._outline, decoded, options)
        card = self.classifier.card
        rules = EventRules(of_class=own_thresholds(card), never=card.background or "")
        given: dict[str, Any] = {"name": upload.name, "options": options, "features": features, "rules": rules}
        # In a thread, for levels of many windows take their time.
        answer = await asyncio.to_thread(answer_of, whole, found, decoded, extras=extras, **given)
        self.meters.sound_seconds.inc(decoded.seconds)
        several = answer.labels if not answer.unknown else None
        for label in [whole.answer] if several is None else several or [NONE]:
            self.meters.labels.labels(label).inc()
        return answer

    def _starts(self, decoded: Decoded, options: Options) -> list[int]:
        """Where the windows begin in the decoded part, in samples."""
        rate, samples = self.classifier.sample_rate_hz, self.classifier.samples
        if options.hop is None:
            starts = [0] if options.one_window else audio.windows(decoded.samples, samples)
            remedy = "ask for its first window alone with first=true, or send a shorter sound"
        else:
            step = max(1, round(options.hop * rate))
            # Stop at the window that reaches the sound's end; hops longer than a window leave gaps.
            starts = list(range(0, max(1, min(decoded.samples, decoded.samples - samples + step)), step))
            least = math.ceil(100 * decoded.seconds / self.limits.windows) / 100
            remedy = f"ask for a hop of {least:g} s or more"
        if len(starts) > self.limits.windows:
            side = f"a hop of {options.hop:g} s" if options.hop else "hearing it whole"
            raise Refusal(422, "too_many_windows", f"{side} makes {len(starts)} windows of this sound", remedy)
        return starts

    async def _raw(self, decoded: Decoded, starts: list[int]) -> list[Raw]:
        """What the network gives for each window."""
        samples = self.classifier.samples
        out: list[Raw] = []
        # One sound's windows never fill the queue, so that short sounds need not wait for a long one.
        for begin in range(0, len(starts), self.limits.batch):
            group = starts[begin : begin + self.limits.batch]
            parts = [audio.fit(decoded.part(start, samples), samples) for start in group]
            found = await asyncio.gather(*(self._raw_of(part) for part in parts))
            self.meters.windows.inc(len(group))
            for one in found:
                if reason := self.classifier.predictions(one)[0].error:
                    message, _, remedy = reason.partition("; ")
                    raise Refusal(422, "not_finite", message, remedy)
            out += found
        return out

    def _whole(self, found: list[tuple[float, Prediction]], raw: list[Raw], options: Options) -> Prediction:
        """The prediction for all windows together."""
        if options.hop is not None:
            return mean_of([one for _, one in found], threshold=partial(threshold_of, self.classifier.card))
        if len(raw) == 1:
            _, alone = found[0]
            return self.classifier.first_alone(alone) if options.one_window else alone
        pool = Pool(self.classifier.card)
        for one in raw:
            pool.add(one)
        return self.classifier.pooled(pool)

    def _strongest(self, raw: list[Raw], label: str) -> int:
        """The window that speaks most for a label."""
        place, card = self.classifier.classes.index(label), self.classifier.card
        return int(np.argmax([card_probabilities(card, one.logits)[0, place] for one in raw]))

    async def _raw_of(self, wave: Wave) -> Raw:
        """What the network gives for a wave (samples,) of a clip's length."""
        self._windows += 1
        try:
            spectrogram = await asyncio.get_running_loop().run_in_executor(self._front_end, self._spectrogram, wave)
            return await self._batcher.submit(spectrogram)
        finally:
            self._windows -= 1

    def _compute(self, spectrograms: list[Tensor]) -> list[Raw]:
        raw = self.classifier.raw_of(torch.cat(spectrograms))
        return [raw.row(place) for place in range(len(spectrograms))]

    def _spectrogram(self, wave: Wave) -> Tensor:
        with torch.inference_mode():
            return self.classifier.spectrograms(torch.from_numpy(wave[None]).to(self.classifier.device))

    def _outline(self, decoded: Decoded, options: Options) -> Waveform:
        whole = decoded.part(0, decoded.samples)
        return waveform_of(whole, rate_hz=self.classifier.sample_rate_hz, start=options.start)

    async def _explanation(
        self, wave: Wave, label: str | None, options: Options, *, start: float
    ) -> tuple[ExplanationBody | None, list[str]]:
        """The explanation of a window that begins at ``start`` seconds, or why there is none."""
        if not options.explain:
            return None, []
        if self._explaining >= self.limits.explanations:
            raise busy(f"{self._explaining} explanations are waiting, which is all that this service takes")
        self._explaining += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._explainer, self._explain, wave, label, start), []
        except AudioError as error:
            return None, [f"no explanation: {unreadable(error.reason).message}"]
        except ModelError as error:
            return None, [f"no explanation: {str(error).removeprefix('array: ')}"]
        finally:
            self._explaining -= 1

    def _explain(self, wave: Wave, label: str | None, start: float) -> ExplanationBody:
        rate, seconds = self.classifier.sample_rate_hz, self.limits.explanation_seconds
        found = self.classifier.explain(wave, rate=rate, label=label, most_seconds=seconds)
        return explanation_of(found, start=start)
