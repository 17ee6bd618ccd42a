// The page: a sound comes in by a file, a drop or the microphone, and is asked about; see api.js and show.js.

import { bytes, model, predict, Refused } from "./api.js";
import { record } from "./microphone.js";
import { answerWords, by, clock, percent, showAnswer, showChannels, showEvents, showSpectrogram, showSound, showWave, words } from "./show.js";

const TOP = 8;
const MOST_RECORDED_SECONDS = 60;
const state = { about: null, sound: null, whole: null, answer: null, explanation: null, outline: null, asking: null };
let recording = null;
let urls = [];

const say = (text) => { by("status").textContent = text; };

function problem(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) console.error(error);
  by("problem").hidden = false;
  by("problem-message").textContent = error instanceof Refused ? error.message : "The page has a fault.";
  by("problem-remedy").textContent = error.remedy ?? "Reload it and try again.";
  say("");
}

function url(blob) {
  const made = URL.createObjectURL(blob);
  urls.push(made);
  return made;
}

// A new sound: ask what it is, and, where it is long, when which class sounds.
async function take(blob, name) {
  state.asking?.abort();
  const { signal } = (state.asking = new AbortController());
  by("problem").hidden = true;
  try {
    if (state.about && blob.size > state.about.most_bytes) {
      const most = (state.about.most_bytes / 1e6).toFixed(0);
      throw new Refused(`${name} has ${(blob.size / 1e6).toFixed(1)} MB; this service takes ${most}.`, "Choose a shorter sound, or a compressed one (FLAC, OGG, MP3).");
    }
    say(`Listening to ${name} …`);
    const answer = await predict(blob, name, { top: TOP, spectrogram: true }, signal);
    urls.forEach((one) => URL.revokeObjectURL(one));
    urls = [];
    const clip = state.about?.clip_seconds ?? answer.spectrogram.seconds;
    Object.assign(state, { sound: { blob, name, seconds: answer.sound.seconds, long: answer.windows > 1 }, whole: null });
    answer.sound.name ||= name;
    by("results").hidden = false;
    by("timeline-section").hidden = true;
    by("player").hidden = false;
    by("unplayable").hidden = true;
    by("player").src = url(blob);
    showSound(answer.sound);
    state.outline = answer.waveform;
    showPart(answer);
    if (state.sound.long) await takeWhole(clip, signal);
    announce();
  } catch (error) {
    problem(error);
  }
}

function announce() {
  const { answer, whole } = state;
  const name = answerWords(answer);
  say(whole ? `Done: ${whole.events.length} events in ${clock(state.sound.seconds)}.` : `Done: ${name}, ${percent(answer.classes[0].probability)}.`);
  by("answer-title").focus({ preventScroll: true });
}

async function takeWhole(clip, signal) {
  const { blob, name, seconds } = state.sound;
  say(`Going through all ${clock(seconds)} …`);
  // Fine enough to see, coarse enough for the service.
  const hop = Math.max(clip / 2, seconds / 600, (1.01 * seconds) / (state.about?.most_windows ?? 4000));
  state.whole = await predict(blob, name, { top: 3, hop: hop.toFixed(3), spectrogram: true }, signal);
  state.outline = state.whole.waveform;
  showWave(state.outline);
  showEvents(state.whole, (start, play) => { look(start, play); });
}

function showPart(answer) {
  state.answer = answer;
  state.explanation = null;
  by("explained").hidden = true;
  by("overlay-choice").hidden = true;
  showAnswer(answer, state.sound.long);
  showChannels(answer.spectrogram, () => showSpectrogram(state.answer.spectrogram, state.answer, state.explanation));
  showSpectrogram(answer.spectrogram, answer, null);
  if (state.outline) showWave(state.outline);
  by("why-class").replaceChildren(...answer.classes.map(({ label }) => new Option(words(label), label)));
}

// Look at the part of a long sound that begins here, and play from there.
async function look(start, play) {
  const player = by("player");
  player.currentTime = start;
  if (play && !player.hidden) player.play().catch(() => say("The browser does not play this sound by itself; press its play button."));
  state.asking?.abort();
  const { signal } = (state.asking = new AbortController());
  try {
    by("problem").hidden = true;
    say(`Looking at ${clock(start)} …`);
    showPart(await predict(state.sound.blob, state.sound.name, { top: TOP, spectrogram: true, at: start }, signal));
    say(`From ${clock(state.answer.start_seconds)}: ${answerWords(state.answer)}, ${percent(state.answer.classes[0].probability)}.`);
  } catch (error) {
    problem(error);
  }
}

async function explain() {
  const button = by("explain");
  const asked = state.answer;
  const label = by("why-class").value;
  button.disabled = true;
  by("problem").hidden = true;
  say(`Finding out what speaks for ${words(label)} …`);
  try {
    // Of a whole long sound the service chooses the window that speaks most for the class.
    const which = asked.windows > 1 ? { spectrogram: true } : { at: asked.start_seconds };
    const found = await predict(state.sound.blob, state.sound.name, { explain: true, label, ...which });
    if (state.answer !== asked) return;
    asked.spectrogram = found.spectrogram ?? asked.spectrogram;
    if (!found.explanation) throw new Refused(found.notes[0] ?? "No explanation.", "Choose another class or another part.");
    showExplanation(found.explanation);
  } catch (error) {
    problem(error);
  } finally {
    button.disabled = false;
  }
}

function showExplanation(found) {
  state.explanation = found;
  by("explained").hidden = false;
  by("overlay-choice").hidden = false;
  by("overlay").checked = true;
  const name = words(found.label);
  by("explained-about").textContent =
    `${state.answer.windows > 1 ? `From ${clock(found.start_seconds)} to ${clock(found.end_seconds)}, which speaks most for it, the` : "The"} model gives ${name} ${percent(found.probability)}. What it used for that is ${percent(found.used_energy)} of the sound's energy.`;
  by("used-share").textContent = `· ${name} ${percent(found.used_probability)}`;
  by("unused-share").textContent = `· ${name} ${percent(found.unused_probability)}`;
  for (const part of ["used", "unused"]) {
    by(part).src = url(new Blob([bytes(found[`${part}_wav`])], { type: "audio/wav" }));
    by(part).setAttribute("aria-label", part === "used" ? "Only what the model used" : "The rest of the sound");
  }
  showSpectrogram(state.answer.spectrogram, state.answer, found);
  say(`Explained: with only what was used, ${name} has ${percent(found.used_probability)}; with the rest, ${percent(found.unused_probability)}.`);
}

async function toggleRecording() {
  const button = by("record");
  if (button.disabled) return;
  button.disabled = true;
  by("problem").hidden = true;
  try {
    if (recording) {
      const ended = recording;
      recording = null;
      const blob = await ended.stop();
      await take(blob, "Recording");
    } else {
      recording = await record((level, seconds) => {
        by("level-bar").style.width = `${Math.min(100, 100 * Math.sqrt(level))}%`;
        by("record-text").textContent = `Stop · ${clock(Math.floor(seconds))}`;
        if (seconds > MOST_RECORDED_SECONDS && recording) toggleRecording();
      });
      say("Recording …");
    }
  } catch (error) {
    recording = null;
    problem(error);
  } finally {
    button.disabled = false;
    button.setAttribute("aria-pressed", String(Boolean(recording)));
    by("level").hidden = !recording;
    if (!recording) by("record-text").textContent = "Record";
  }
}

function followPlayer() {
  const player = by("player");
  const place = (frame, start, seconds) => {
    const head = frame.querySelector(".playhead");
    const share = (player.currentTime - start) / seconds;
    if (!head) return;
    head.hidden = !(share >= 0 && share <= 1) || (player.paused && !player.currentTime);
    head.style.left = `${100 * share}%`;
  };
  const step = () => {
    if (!state.answer) return;
    place(by("wave-frame"), state.outline.start_seconds, state.outline.seconds);
    place(by("spectrogram-frame"), state.answer.spectrogram.start_seconds, state.answer.spectrogram.seconds);
    place(by("strip"), 0, state.sound.seconds);
    if (!player.paused) requestAnimationFrame(step);
  };
  ["play", "seeked", "pause"].forEach((name) => player.addEventListener(name, step));
  const seek = (frame, span) => frame.addEventListener("click", (event) => {
    const [start, seconds] = span();
    const box = frame.getBoundingClientRect();
    const time = start + ((event.clientX - box.left) / box.width) * seconds;
    if (frame.id === "strip") look(Math.max(0, Math.min(time, state.sound.seconds - 0.1)), true);
    else player.currentTime = time;
  });
  seek(by("wave-frame"), () => [state.outline.start_seconds, state.outline.seconds]);
  seek(by("spectrogram-frame"), () => [state.answer.spectrogram.start_seconds, state.answer.spectrogram.seconds]);
  seek(by("strip"), () => [0, state.sound.seconds]);
  player.addEventListener("error", () => {
    player.hidden = true;
    by("unplayable").hidden = false;
  });
}

function acceptDrops() {
  const zone = by("drop");
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    zone.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file, file.name);
  });
}

by("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file, file.name);
  event.target.value = ""; // the same file can be chosen again
});
by("record").addEventListener("click", toggleRecording);
by("explain").addEventListener("click", explain);
by("overlay").addEventListener("change", () => showSpectrogram(state.answer.spectrogram, state.answer, state.explanation));
for (const change of [matchMedia("(prefers-color-scheme: dark)"), window]) {
  change.addEventListener(change === window ? "resize" : "change", () => state.outline && showWave(state.outline));
}
acceptDrops();
followPlayer();

try {
  const about = (state.about = await model());
  by("model").textContent = `${about.classes.length} classes${about.trained_on ? ` · trained on ${about.trained_on}` : ""}${about.tells_unknown ? " · says when it does not know" : ""}`;
  by("limits").textContent = `WAV, FLAC, OGG, MP3, AIFF, AU · up to ${(about.most_bytes / 1e6).toFixed(0)} MB and ${Math.round(about.most_seconds / 6) / 10} min`;
} catch (error) {
  problem(error);
}
document.documentElement.dataset.ready = "true";
