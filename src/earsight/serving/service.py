"""One model at work: from an uploaded file to an answer.

Comes in: an `Upload` and what is asked of it. Goes out: an `Answer`. The decoders, the batches and the one thread for
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

import torch
from torch import Tensor

from earsight.data import audio
from earsight.data.audio import Wave
from earsight.errors import AudioError, ModelError
from earsight.inference.classifier import Classifier, Prediction
from earsight.serving.answers import Question, answered
from earsight.serving.batching import Batcher
from earsight.serving.decoder_pool import Decoders, Heard
from earsight.serving.limits import Limits
from earsight.serving.meters import Meters
from earsight.serving.refusals import Refusal, busy, of_audio
from earsight.serving.schemas import Answer, ExplanationBody, Waveform
from earsight.serving.uploads import Upload
from earsight.serving.views import explanation_of, spectrogram_of, waveform_of


class Service:
    """A classifier with its decoders and queues.

    Parameters
    ----------
    classifier : Classifier
    limits : Limits
    """

    def __init__(self, classifier: Classifier, limits: Limits) -> None:
        self.classifier, self.limits = classifier, limits
        self.in_flight = 0
        self.meters = Meters(waiting=lambda: self._batcher.waiting, decoders=lambda: self.decoders.alive)
        self.decoders = Decoders(
            limits,
            sample_rate_hz=classifier.sample_rate_hz,
            on_end=lambda why: self.meters.ended.labels(why).inc(),
        )
        self._batcher: Batcher[Tensor, Prediction] = Batcher(
            lambda spectrograms: classifier.predict_spectrograms(torch.cat(spectrograms)),
            most=limits.batch,
            wait_seconds=limits.wait_seconds,
            coming=lambda: max(self.in_flight, self._asked),
            on_batch=self.meters.batch_size.observe,
        )
        # One core each, as `earsight.parallel` has it; the network's thread has them all.
        self._painters = ThreadPoolExecutor(
            torch.get_num_threads(), "spectrogram", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._asked = self._explaining = 0
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self.folder = Path()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Be at work for as long as the block runs."""
        with tempfile.TemporaryDirectory(prefix="earsight-", ignore_cleanup_errors=True) as folder:
            self.folder = Path(folder)
            try:
                await self.decoders.start()
                self._batcher.start()
                yield
            finally:
                await self._batcher.close()
                await self.decoders.close()
                self._painters.shutdown(wait=False, cancel_futures=True)
                self._explainer.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place among the requests in flight.

        Raises
        ------
        Refusal
            503 if there is none.
        """
        if self.in_flight >= self.limits.queue:
            raise busy(f"{self.in_flight} requests are in flight, which is all that this service takes", close=True)
        self.in_flight += 1
        self.meters.in_flight.set(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self.meters.in_flight.set(self.in_flight)

    async def answer(self, upload: Upload, question: Question) -> Answer:
        """What the model says of a file.

        Raises
        ------
        Refusal
            If the file is no sound, or breaks a limit.
        """
        clip = self.classifier.samples / self.classifier.sample_rate_hz
        whole = question.hop is not None
        began = time.perf_counter()
        try:
            heard = await self.decoders.decode(
                upload.path, start=0.0 if whole else question.at, seconds=None if whole else clip
            )
        finally:
            self.meters.decode_seconds.observe(time.perf_counter() - began)
        found = await self._predictions(heard, question)
        first = heard.part(0, self.classifier.samples)
        explanation, notes = await self._explanation(first, question)
        answer = answered(
            found,
            heard,
            name=upload.name,
            question=question,
            clip=clip,
            spectrogram=await asyncio.to_thread(spectrogram_of, self.classifier, first)
            if question.spectrogram
            else None,
            waveform=await asyncio.to_thread(self._outline, heard, question) if question.spectrogram else None,
            explanation=explanation,
            notes=notes,
        )
        self.meters.sound_seconds.inc(heard.seconds)
        self.meters.labels.labels("unknown" if answer.unknown else answer.label).inc()
        return answer

    async def _predictions(self, heard: Heard, question: Question) -> list[tuple[float, Prediction]]:
        """Where each window begins in what was heard, in seconds, and what the model says of it."""
        rate, samples = self.classifier.sample_rate_hz, self.classifier.samples
        starts = [0]
        if question.hop is not None:
            step = max(1, round(question.hop * rate))
            # Until one reaches the sound's end; hops longer than a window leave gaps.
            starts = list(range(0, max(1, min(heard.samples, heard.samples - samples + step)), step))
        if len(starts) > self.limits.windows:
            raise Refusal(
                *(422, "too_many_windows", f"a hop of {question.hop:g} s makes {len(starts)} windows of this sound"),
                f"ask for a hop of {math.ceil(100 * heard.seconds / self.limits.windows) / 100:g} s or more",
            )
        out: list[tuple[float, Prediction]] = []
        # Those of one sound never fill the queue, so that short sounds pass between.
        for begin in range(0, len(starts), self.limits.batch):
            group = starts[begin : begin + self.limits.batch]
            parts = [audio.fit(heard.part(start, samples), samples) for start in group]
            found = await asyncio.gather(*(self._said(part) for part in parts))
            self.meters.windows.inc(len(group))
            out += [(start / rate, one) for start, one in zip(group, found, strict=True)]
        return out

    async def _said(self, wave: Wave) -> Prediction:
        """What the model says of a wave (samples,) of a clip's length."""
        self._asked += 1
        try:
            spectrogram = await asyncio.get_running_loop().run_in_executor(self._painters, self._pictured, wave)
            return await self._batcher.answer(spectrogram)
        finally:
            self._asked -= 1

    def _pictured(self, wave: Wave) -> Tensor:
        with torch.inference_mode():
            return self.classifier.spectrograms(torch.from_numpy(wave[None]).to(self.classifier.device))

    def _outline(self, heard: Heard, question: Question) -> Waveform:
        whole = heard.part(0, heard.samples)
        start = 0.0 if question.hop is not None else question.at
        return waveform_of(whole, rate_hz=self.classifier.sample_rate_hz, start=start)

    async def _explanation(self, wave: Wave, question: Question) -> tuple[ExplanationBody | None, list[str]]:
        """The explanation, or why there is none."""
        if not question.explain:
            return None, []
        if self._explaining >= self.limits.explanations:
            raise busy(f"{self._explaining} explanations are waiting, which is all that this service takes")
        self._explaining += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._explainer, self._explain, wave, question.label
            )
        except AudioError as error:
            return None, [f"no explanation: {of_audio(error).message}"]
        except ModelError:
            steps = self.limits.explanation_steps
            return None, [f"no explanation: it is not complete within 1 % after {steps} steps; use `earsight explain`"]
        finally:
            self._explaining -= 1
        return found, []

    def _explain(self, wave: Wave, label: str | None) -> ExplanationBody:
        return explanation_of(
            self.classifier.explain(
                wave,
                rate=self.classifier.sample_rate_hz,
                label=label,
                curves=False,
                most_steps=self.limits.explanation_steps,
            )
        )
