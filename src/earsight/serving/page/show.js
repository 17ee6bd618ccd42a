// An answer as elements of the page: its words, its bars, the spectrogram.

import { bytes } from "./api.js";
import { drawSpectrogram, drawWave } from "./draw.js";
import { answerWords, by, clock, element, part, percent, score, scoreWords, showSeconds, words } from "./words.js";

export function showSound(sound) {
  by("sound-title").textContent = sound.name;
  const channels = sound.channels === 1 ? "mono" : sound.channels === 2 ? "stereo" : `${sound.channels} channels`;
  by("sound-about").textContent = `${clock(sound.seconds)} · ${sound.format} · ${(sound.sample_rate_hz / 1000).toFixed(1)} kHz · ${channels}`;
}

export function showWave(outline) {
  const canvas = by("wave");
  canvas.setAttribute("aria-label", `Waveform from ${clock(outline.start_seconds)} to ${clock(outline.start_seconds + outline.seconds)}`);
  drawWave(canvas, outline);
  showSeconds(by("wave-axis"), outline.start_seconds, outline.seconds);
}

// Of a sound that is longer than the model's window: how many windows the answer is from.
function agreement(answer) {
  if (answer.windows < 2) return "";
  const alone = Math.round(answer.agreement * answer.windows);
  const sure = answer.calibrated === false ? " The model was not calibrated for several windows." : "";
  return `From the whole sound, in ${answer.windows} windows: ${alone} of them alone say ${words(answer.label)}.${sure}`;
}

// What of the sound the model did not get, where that is much.
function missing({ left_out: lost }) {
  const parts = [];
  if ("cancelled" in lost) parts.push(`The sound's channels cancel each other: averaging them loses ${part(lost.cancelled)} of a window's energy.`);
  if ("lacking" in lost) parts.push("The channel that the model takes is nearly silent, another is not.");
  if ("above" in lost) parts.push(`Up to ${part(lost.above)} of a moment's energy lies too high for the model, around ${(lost.above_hz / 1000).toFixed(1)} kHz.`);
  if ("silent" in lost) parts.push("It is silent, or nearly: all its samples are the same to -120 dB of full scale, so that the answer says nothing of it.");
  if ("below" in lost) parts.push(`${part(lost.below)} of its energy lies too low for the model.`);
  return parts.join(" ");
}

export function showAnswer(answer, about, long) {
  by("part").textContent = `${answer.sound.name}${long ? ` · ${clock(answer.start_seconds)} to ${clock(answer.end_seconds)}` : ""}`;
  const title = by("answer-title");
  const name = answerWords(answer);
  title.textContent = answer.labels || answer.unknown ? name[0].toUpperCase() + name.slice(1) : name;
  title.classList.toggle("unknown", answer.unknown);
  const above = answer.unknown && typeof about?.unknown_above === "number" ? `; the model's threshold is ${score(about.unknown_above)}` : "";
  by("answer-score").textContent = `${scoreWords(answer)}${above}`;
  const plausible = answer.plausible.map(words);
  const first = answer.unknown
    ? `Unlike every class that this model knows. The nearest is ${words(answer.label)}.`
    : plausible.length > 1
      ? `It may also be ${plausible.filter((label) => label !== words(answer.label)).join(", ")}.`
      : answer.labels && !answer.labels.length
        ? `The nearest is ${words(answer.label)}, which does not reach its threshold.`
        : "";
  by("answer-about").textContent = [first, agreement(answer), missing(answer)].filter(Boolean).join(" ");
  by("classes").closest("table").classList.toggle("several", Boolean(answer.labels));
  by("thresholds-about").hidden = !answer.labels;
  by("classes").replaceChildren(...answer.classes.map((one) => showClass(one, answer, about?.thresholds?.[one.label] ?? 0.5)));
}

function showClass({ label, probability }, answer, threshold) {
  const row = element("tr");
  if (answer.labels && !answer.labels.includes(label)) row.className = "below";
  const name = element("th", words(label));
  name.scope = "row";
  const cell = element("td");
  cell.setAttribute("aria-hidden", "true");
  const track = element("div", undefined, "track");
  const fill = element("div", undefined, "fill");
  fill.style.width = `${100 * probability}%`;
  track.append(fill);
  const share = element("td", percent(probability), "share");
  if (answer.labels) {
    const mark = element("div", undefined, "mark");
    mark.style.left = `${100 * threshold}%`;
    track.append(mark);
    track.title = `named from ${percent(threshold)} on`;
    share.append(element("span", `, named from ${percent(threshold)} on`, "unseen"));
  }
  cell.append(track);
  row.append(name, cell, share);
  return row;
}

export function showChannels(spectrogram, onChange) {
  const group = by("channels");
  const count = spectrogram.windows_ms.length;
  const choices = spectrogram.windows_ms.map((length, i) => [String(i), `${length} ms`]);
  if (count > 1) choices.push(["all", "all three, as red, green, blue"]);
  const chosen = group.querySelector("input:checked")?.value ?? choices[Math.min(1, count - 1)][0];
  group.hidden = choices.length < 2;
  group.replaceChildren(group.querySelector("legend"));
  for (const [value, text] of choices) {
    const label = element("label");
    const input = element("input");
    Object.assign(input, { type: "radio", name: "channel", value, checked: value === chosen });
    input.addEventListener("change", onChange);
    label.append(input, text);
    group.append(label);
  }
}

const hertz = (value) => (value >= 1000 ? `${Number((value / 1000).toFixed(1))} kHz` : `${Math.round(value)} Hz`);

// Round frequencies at their places among the bands, which lie as mel has them.
function showHertz(bands) {
  const place = (value) => {
    const above = bands.findIndex((middle) => middle >= value);
    if (above < 1) return null;
    return (above - 1 + (value - bands[above - 1]) / (bands[above] - bands[above - 1]) + 0.5) / bands.length;
  };
  const round = [50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000];
  let last = -1;
  const spans = [];
  for (const value of round) {
    const at = place(value);
    if (at === null || at - last < 0.09) continue;
    last = at;
    const made = element("span", hertz(value));
    made.style.bottom = `${100 * at}%`;
    spans.push(made);
  }
  by("hertz").replaceChildren(...spans);
}

export function showSpectrogram(spectrogram, explanation) {
  const strength = Number(by("overlay").value) / 100;
  const over = explanation && strength > 0 ? new Int8Array(bytes(explanation.levels).buffer) : null;
  const channel = by("channels").querySelector("input:checked")?.value ?? "0";
  const canvas = by("spectrogram");
  drawSpectrogram(canvas, { ...spectrogram, levels: bytes(spectrogram.levels) }, channel, over, strength);
  const highest = hertz(spectrogram.bands_hz.at(-1));
  canvas.setAttribute(
    "aria-label",
    `Spectrogram, ${spectrogram.seconds.toFixed(1)} seconds from left to right, up to ${highest}${over ? `, with what speaks for ${words(explanation.label)} laid over it` : ""}`,
  );
  by("overlay-choice").hidden = !explanation;
  showHertz(spectrogram.bands_hz);
  showSeconds(by("spectrogram-axis"), spectrogram.start_seconds, spectrogram.seconds);
  by("spectrogram-about").textContent = `Power in ${spectrogram.rows} bands of frequency; bright is loud.`;
}
