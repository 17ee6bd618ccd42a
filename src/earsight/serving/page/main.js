// The page: sounds come in by files, a folder, a drop or the microphone, and are asked about; see files.js and show.js.

import { bytes, model, predict, Refused } from "./api.js";
import { sounds, start, take } from "./files.js";
import { record } from "./microphone.js";
import { showAnswer, showChannels, showSound, showSpectrogram, showWave } from "./show.js";
import { mostly, stripsOf, showTimeline } from "./timeline.js";
import { answerWords, by, clock, off, part, percent, scoreWords, words } from "./words.js";

const MOST_RECORDED_SECONDS = 60;
const state = { about: null, item: null, sound: null, answer: null, explanation: null, outline: null, asking: null };
let recording = null;
let recordings = 0;
let urls = [];

const say = (text) => { by("status").textContent = text; };

// Say what went wrong next to what it is about.
function problem(error, place) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) console.error(error);
  const box = by(place);
  const [message, remedy] = [document.createElement("p"), document.createElement("p")];
  message.textContent = error instanceof Refused ? error.message : "The page has a fault.";
  remedy.textContent = error.remedy ?? "Reload it and try again.";
  box.replaceChildren(message, remedy);
  box.hidden = false;
  say("");
}

function url(blob) {
  const made = URL.createObjectURL(blob);
  urls.push(made);
  return made;
}

function hidden() {
  state.asking?.abort();
  by("results").hidden = true;
  by("player").pause();
  Object.assign(state, { item: null, answer: null });
}

// Show an answered sound; where it is long, ask when which class sounds.
async function shown(item) {
  state.asking?.abort();
  const { signal } = (state.asking = new AbortController());
  urls.forEach((one) => URL.revokeObjectURL(one));
  urls = [];
  const { answer } = item;
  Object.assign(state, { item, outline: answer.waveform, sound: { ...answer.sound, long: answer.windows > 1 } });
  by("results").hidden = false;
  by("timeline").hidden = by("strips").hidden = by("timeline-problem").hidden = true;
  by("player").hidden = false;
  by("unplayable").hidden = true;
  by("player").src = url(item.blob);
  by("answer-decoded").hidden = !item.decoded;
  by("answer-decoded").textContent = "This browser decoded the sound, at 48 kHz, for the service has no decoder for it: the service's own could differ a little.";
  showSound(answer.sound);
  showPart(answer);
  by("answer-title").focus({ preventScroll: true });
  if (matchMedia("(max-width: 40rem)").matches) by("results").scrollIntoView({ block: "start" });
  if (!state.sound.long) return say(`Done: ${answerWords(answer)}, ${scoreWords(answer)}.`);
  try {
    await showWhole(item, signal);
    say(`Done: ${mostly(item.whole, stripsOf(item.whole))}.`);
  } catch (error) {
    problem(error, "timeline-problem");
  }
}

async function showWhole(item, signal) {
  const { seconds } = state.sound;
  if (!item.whole) {
    say(`Going through all ${clock(seconds)} …`);
    // Fine enough to see, coarse enough for the service.
    const clip = state.about?.clip_seconds ?? item.answer.spectrogram.seconds;
    const hop = Math.max(clip / 2, seconds / 600, (1.01 * seconds) / (state.about?.most_windows ?? 4000));
    item.whole = await predict(item.blob, item.name, { top: 3, hop: hop.toFixed(3), spectrogram: true }, { signal });
  }
  state.outline = item.whole.waveform;
  showWave(state.outline);
  showTimeline(item.whole, look);
}

function showPart(answer) {
  Object.assign(state, { answer, explanation: null });
  by("explained").hidden = by("why-problem").hidden = true;
  showAnswer(answer, state.about, state.sound.long);
  showChannels(answer.spectrogram, () => showSpectrogram(state.answer.spectrogram, state.explanation));
  showSpectrogram(answer.spectrogram, null);
  if (state.outline) showWave(state.outline);
  by("why-class").replaceChildren(...answer.classes.map(({ label }) => new Option(words(label), label)));
}

// Look at the part of a long sound that begins here, and play from there.
async function look(begin, play) {
  const player = by("player");
  player.currentTime = begin;
  if (play && !player.hidden) player.play().catch(() => say("The browser does not play this sound by itself; press its play button."));
  state.asking?.abort();
  const { signal } = (state.asking = new AbortController());
  try {
    by("timeline-problem").hidden = true;
    say(`Looking at ${clock(begin)} …`);
    const found = await predict(state.item.blob, state.item.name, { top: 8, at: begin.toFixed(3), spectrogram: true }, { signal });
    found.sound.name = state.item.name;
    showPart(found);
    say(`From ${clock(begin)}: ${answerWords(found)}, ${scoreWords(found)}.`);
  } catch (error) {
    problem(error, "timeline-problem");
  }
}

async function explain() {
  const asked = state.answer;
  const label = by("why-class").value;
  const most = Math.round(state.about?.explanation_seconds ?? 20);
  const began = Date.now();
  const tell = () => {
    const passed = Math.round((Date.now() - began) / 1000);
    by("explain-time").textContent = `${passed} s: as many steps as it takes, within ${most} s; then some seconds for the verdict`;
  };
  const timer = setInterval(tell, 1000);
  by("explain").disabled = true;
  by("why-problem").hidden = true;
  tell();
  say(`Finding out what speaks for ${words(label)} …`);
  try {
    // Of a whole long sound the service chooses the window that speaks most for the class.
    const which = asked.windows > 1 ? { spectrogram: true } : { at: asked.start_seconds };
    const found = await predict(state.item.blob, state.item.name, { explain: true, label, ...which });
    if (state.answer !== asked) return;
    asked.spectrogram = found.spectrogram ?? asked.spectrogram;
    if (!found.explanation) throw new Refused(sentence(found.notes[0] ?? "no explanation"), "Choose another class or another part.");
    showExplanation(found.explanation);
  } catch (error) {
    problem(error, "why-problem");
  } finally {
    clearInterval(timer);
    by("explain-time").textContent = "";
    by("explain").disabled = false;
  }
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;

function showExplanation(found) {
  state.explanation = found;
  by("explained").hidden = false;
  const name = words(found.label);
  const error = off(found.completeness_error, 0.01);
  const whole = found.complete
    ? `Complete within 1 %: off by ${error} % after ${found.steps} steps.`
    : `Not complete within 1 %: off by ${error} % after ${found.steps} steps, when the time was over. Do not rely on it.`;
  by("verdict").textContent = `${found.verdict} ${whole}`;
  by("verdict").dataset.believed = found.complete ? found.believed : "no";
  by("explained-about").textContent =
    `${state.answer.windows > 1 ? `From ${clock(found.start_seconds)} to ${clock(found.end_seconds)}, which speaks most for it, the` : "The"} model gives ${name} ${percent(found.probability)}. What it used for that is ${part(found.used_energy)} of the sound's energy.`;
  by("used-share").textContent = `· ${name} ${percent(found.used_probability)}`;
  by("unused-share").textContent = `· ${name} ${percent(found.unused_probability)}`;
  for (const one of ["used", "unused"]) {
    by(one).src = url(new Blob([bytes(found[`${one}_wav`])], { type: "audio/wav" }));
    by(one).setAttribute("aria-label", one === "used" ? "Only what the model used" : "The rest of the sound");
  }
  showSpectrogram(state.answer.spectrogram, found);
  say(`Explained: with only what was used, ${name} has ${percent(found.used_probability)}; with the rest, ${percent(found.unused_probability)}.`);
}

async function toggleRecording() {
  const button = by("record");
  if (button.disabled) return;
  button.disabled = true;
  by("record-problem").hidden = true;
  try {
    if (recording) {
      const ended = recording;
      recording = null;
      const blob = await ended.stop();
      recordings += 1;
      take([[blob, recordings > 1 ? `Recording ${recordings}` : "Recording"]]);
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
    problem(error, "record-problem");
  } finally {
    button.disabled = false;
    button.setAttribute("aria-pressed", String(Boolean(recording)));
    by("level").hidden = !recording;
    if (!recording) by("record-text").textContent = "Record";
  }
}

function followPlayer() {
  const player = by("player");
  const through = document.querySelector(".through");
  const place = (frame, begin, seconds) => {
    const head = frame.querySelector(":scope > .playhead");
    const share = (player.currentTime - begin) / seconds;
    head.hidden = !(share >= 0 && share <= 1) || (player.paused && !player.currentTime);
    head.style.left = `${100 * share}%`;
  };
  const step = () => {
    if (!state.answer) return;
    place(through, state.outline.start_seconds, state.outline.seconds);
    place(by("spectrogram-frame"), state.answer.spectrogram.start_seconds, state.answer.spectrogram.seconds);
    if (!player.paused) requestAnimationFrame(step);
  };
  ["play", "seeked", "pause"].forEach((name) => player.addEventListener(name, step));
  const seek = (frame, span) => frame.addEventListener("click", (event) => {
    const { start_seconds: begin, seconds } = span();
    const box = frame.getBoundingClientRect();
    player.currentTime = begin + ((event.clientX - box.left) / box.width) * seconds;
  });
  seek(by("wave-frame"), () => state.outline);
  seek(by("spectrogram-frame"), () => state.answer.spectrogram);
  player.addEventListener("error", () => {
    player.hidden = true;
    by("unplayable").hidden = false;
  });
}

const named = (files) => files.map((file) => [file, file.name]);

// Of a folder what may be a sound; and how many other files it holds.
function takeFolder(files) {
  const [found, others] = sounds(files);
  by("drop-about").textContent = `${found.length} of the ${files.length} files in this folder may be sounds${others ? `; ${others} ${others === 1 ? "other is" : "others are"} left out` : ""}.`;
  take(named(found));
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return found;
    for (const one of some) found.push(...(await filesOf(one)));
  }
}

async function takeDrop(data) {
  const files = [...data.files];
  const entries = [...data.items].map((one) => one.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((one) => one.isDirectory)) return take(named(files));
  const all = [];
  for (const entry of entries) all.push(...(await filesOf(entry)));
  takeFolder(all);
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
    takeDrop(event.dataTransfer);
  });
}

for (const [id, taken] of [["file", (files) => take(named(files))], ["folder", takeFolder]]) {
  by(id).addEventListener("change", (event) => {
    taken([...event.target.files]);
    event.target.value = ""; // the same file can be chosen again
  });
}
by("folder-choice").hidden = !("webkitdirectory" in by("folder"));
by("record").addEventListener("click", toggleRecording);
by("explain").addEventListener("click", explain);
by("overlay").addEventListener("input", () => showSpectrogram(state.answer.spectrogram, state.explanation));
for (const change of [matchMedia("(prefers-color-scheme: dark)"), window]) {
  change.addEventListener(change === window ? "resize" : "change", () => {
    if (!state.answer) return;
    showWave(state.outline);
    showSpectrogram(state.answer.spectrogram, state.explanation);
  });
}
start({ about: () => state.about, shown, hidden, say });
acceptDrops();
followPlayer();

try {
  const about = (state.about = await model());
  by("model").textContent = `${about.classes.length} classes${about.several ? ", which may sound together" : ""}${about.trained_on ? ` · trained on ${about.trained_on}` : ""}${about.tells_unknown ? " · says when it does not know" : ""}`;
  const more = about.formats.includes("M4A") ? " and more" : "; M4A, WebM and others as far as this browser decodes them";
  by("limits").textContent = `${about.formats.join(", ")}${more} · each up to ${(about.most_bytes / 1e6).toFixed(0)} MB and ${Math.round(about.most_seconds / 6) / 10} min`;
} catch (error) {
  problem(error, "problem");
}
document.documentElement.dataset.ready = "true";
