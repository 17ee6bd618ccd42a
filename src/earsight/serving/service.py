"""The service behind HTTP: from an uploaded file to an answer.

Comes in: an `Upload` and a `Options`. Goes out: an `Answer`. The decoders, the batches and the one thread for
explanations live here, while `opened`.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earsight.data import audio
from earsight.data.audio import Wave
from earsight.errors import AudioError, ModelError
from earsight.inference.classifier import Classifier
from earsight.inference.predictions import Prediction
from earsight.serving.answers import Options, answer_of
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
            limits,
            features=classifier.card.recipe.features,
            on_end=lambda why: self.meters.ended.labels(why).inc(),
        )
        self._batcher: Batcher[Tensor, Prediction] = Batcher(
            lambda spectrograms: classifier.predict_spectrograms(torch.cat(spectrograms)),
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
        with tempfile.TemporaryDirectory(prefix="earsight-", ignore_cleanup_errors=True) as folder:
            self.folder = Path(folder)
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
        whole = options.hop is not None
        began = time.perf_counter()
        try:
            decoded = await self.decoders.decode(
                upload.path, start=0.0 if whole else options.at, seconds=None if whole else clip
            )
        finally:
            self.meters.decode_seconds.observe(time.perf_counter() - began)
        found = await self._predictions(decoded, options)
        first = decoded.part(0, self.classifier.samples)
        explanation, notes = await self._explanation(first, options)
        extras: dict[str, Any] = {"explanation": explanation, "notes": notes, "spectrogram": None, "waveform": None}
        if options.spectrogram:
            extras["spectrogram"] = await asyncio.to_thread(spectrogram_of, self.classifier, first)
            extras["waveform"] = await asyncio.to_thread(self._outline, decoded, options)
        answer = answer_of(found, decoded, name=upload.name, options=options, clip=clip, extras=extras)
        self.meters.sound_seconds.inc(decoded.seconds)
        self.meters.labels.labels("unknown" if answer.unknown else answer.label).inc()
        return answer

    async def _predictions(self, decoded: Decoded, options: Options) -> list[tuple[float, Prediction]]:
        """Where each window begins in the decoded part, in seconds, and its prediction."""
        rate, samples = self.classifier.sample_rate_hz, self.classifier.samples
        starts = [0]
        if options.hop is not None:
            step = max(1, round(options.hop * rate))
            # Stop at the window that reaches the sound's end; hops longer than a window leave gaps.
            starts = list(range(0, max(1, min(decoded.samples, decoded.samples - samples + step)), step))
        if len(starts) > self.limits.windows:
            raise Refusal(
                *(422, "too_many_windows", f"a hop of {options.hop:g} s makes {len(starts)} windows of this sound"),
                f"ask for a hop of {math.ceil(100 * decoded.seconds / self.limits.windows) / 100:g} s or more",
            )
        out: list[tuple[float, Prediction]] = []
        # One sound's windows never fill the queue, so that short sounds need not wait for a long one.
        for begin in range(0, len(starts), self.limits.batch):
            group = starts[begin : begin + self.limits.batch]
            parts = [audio.fit(decoded.part(start, samples), samples) for start in group]
            found = await asyncio.gather(*(self._prediction(part) for part in parts))
            self.meters.windows.inc(len(group))
            if reason := next((one.error for one in found if one.error), ""):
                message, _, remedy = reason.partition("; ")
                raise Refusal(422, "not_finite", message, remedy)
            out += [(start / rate, one) for start, one in zip(group, found, strict=True)]
        return out

    async def _prediction(self, wave: Wave) -> Prediction:
        """The prediction for a wave (samples,) of a clip's length."""
        self._windows += 1
        try:
            spectrogram = await asyncio.get_running_loop().run_in_executor(self._front_end, self._spectrogram, wave)
            return await self._batcher.submit(spectrogram)
        finally:
            self._windows -= 1

    def _spectrogram(self, wave: Wave) -> Tensor:
        with torch.inference_mode():
            return self.classifier.spectrograms(torch.from_numpy(wave[None]).to(self.classifier.device))

    def _outline(self, decoded: Decoded, options: Options) -> Waveform:
        start = 0.0 if options.hop is not None else options.at
        whole = decoded.part(0, decoded.samples)
        return waveform_of(whole, rate_hz=self.classifier.sample_rate_hz, start=start)

    async def _explanation(self, wave: Wave, options: Options) -> tuple[ExplanationBody | None, list[str]]:
        """The explanation, or why there is none."""
        if not options.explain:
            return None, []
        if self._explaining >= self.limits.explanations:
            raise busy(f"{self._explaining} explanations are waiting, which is all that this service takes")
        self._explaining += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._explainer, self._explain, wave, options.label), []
        except AudioError as error:
            return None, [f"no explanation: {unreadable(error.reason).message}"]
        except ModelError:
            steps = self.limits.explanation_steps
            return None, [f"no explanation: it is not complete within 1 % after {steps} steps; use `earsight explain`"]
        finally:
            self._explaining -= 1

    def _explain(self, wave: Wave, label: str | None) -> ExplanationBody:
        rate, steps = self.classifier.sample_rate_hz, self.limits.explanation_steps
        return explanation_of(self.classifier.explain(wave, rate=rate, label=label, curves=False, most_steps=steps))
