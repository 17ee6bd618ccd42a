// Answers as elements of the page. Names come from files and models and go in as text, never as markup.

import { bytes } from "./api.js";
import { drawSpectrogram, drawWave } from "./draw.js";

export const by = (id) => document.getElementById(id);

export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600);
  const rest = (tenths % 600) / 10;
  return `${minutes}:${rest < 10 ? "0" : ""}${Number.isInteger(rest) ? rest : rest.toFixed(1)}`;
}

export function percent(share) {
  const value = 100 * share;
  return `${value >= 99.95 || value < 0.05 ? value.toFixed(0) : value.toFixed(1)} %`;
}

export const words = (label) => label.replaceAll("_", " ");

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function showSound(sound) {
  by("sound-title").textContent = sound.name;
  const channels = sound.channels === 1 ? "mono" : sound.channels === 2 ? "stereo" : `${sound.channels} channels`;
  by("sound-about").textContent = `${clock(sound.seconds)} · ${sound.format} · ${(sound.sample_rate_hz / 1000).toFixed(1)} kHz · ${channels}`;
}

export function showWave(outline) {
  const canvas = by("wave");
  canvas.setAttribute("aria-label", `Waveform from ${clock(outline.start_seconds)} to ${clock(outline.start_seconds + outline.seconds)}`);
  drawWave(canvas, outline);
}

// What an answer says, in a few words: one class, or those that sound together.
export function answerWords(answer) {
  if (answer.unknown) return "unknown";
  if (!answer.labels) return words(answer.label);
  return answer.labels.map(words).join(", ") || "none of its classes";
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
  if ("cancelled" in lost) parts.push(`The sound's channels cancel each other: averaging them loses ${percent(lost.cancelled)} of their energy.`);
  if ("lacking" in lost) parts.push("The channel that the model takes is nearly silent, another is not.");
  if ("above" in lost) parts.push(`Up to ${percent(lost.above)} of a moment's energy lies too high for the model, around ${(lost.above_hz / 1000).toFixed(1)} kHz.`);
  if ("below" in lost) parts.push(`${percent(lost.below)} of its energy lies too low for the model.`);
  return parts.join(" ");
}

export function showAnswer(answer, long) {
  by("part").textContent = long ? `From ${clock(answer.start_seconds)} to ${clock(answer.end_seconds)}` : "It sounds like";
  const title = by("answer-title");
  const name = answerWords(answer);
  title.textContent = answer.labels || answer.unknown ? name[0].toUpperCase() + name.slice(1) : name;
  title.classList.toggle("unknown", answer.unknown);
  const plausible = answer.plausible.map(words);
  const about = answer.unknown
    ? `Unlike every class that this model knows. The nearest is ${words(answer.label)}.`
    : plausible.length > 1
      ? `It may also be ${plausible.filter((label) => label !== words(answer.label)).join(", ")}.`
      : answer.labels && !answer.labels.length
        ? `The nearest is ${words(answer.label)}, which does not reach its threshold.`
        : "";
  by("answer-about").textContent = [about, agreement(answer), missing(answer)].filter(Boolean).join(" ");
  by("classes").closest("table").classList.toggle("several", Boolean(answer.labels));
  by("classes").replaceChildren(
    ...answer.classes.map(({ label, probability }) => {
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
      cell.append(track);
      row.append(name, cell, element("td", percent(probability), "share"));
      return row;
    }),
  );
}

export function showChannels(spectrogram, onChange) {
  const group = by("channels");
  const count = spectrogram.windows_ms.length;
  const choices = count > 1 ? [["all", "All three as colours"]] : [];
  spectrogram.windows_ms.forEach((length, i) => choices.push([String(i), `${length} ms`]));
  const chosen = group.querySelector("input:checked")?.value ?? choices[0][0];
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

export function showSpectrogram(spectrogram, answer, explanation) {
  const over = explanation && by("overlay").checked ? new Int8Array(bytes(explanation.levels).buffer) : null;
  const channel = by("channels").querySelector("input:checked")?.value ?? "0";
  const canvas = by("spectrogram");
  drawSpectrogram(canvas, { ...spectrogram, levels: bytes(spectrogram.levels) }, channel, over);
  const top = spectrogram.bands_hz.at(-1);
  const highest = top >= 1000 ? `${(top / 1000).toFixed(1)} kHz` : `${Math.round(top)} Hz`;
  canvas.setAttribute(
    "aria-label",
    `Spectrogram, ${spectrogram.seconds.toFixed(1)} seconds from left to right, up to ${highest}${over ? `, with what speaks for ${words(explanation.label)} laid over it` : ""}`,
  );
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => element("span", clock(spectrogram.start_seconds + share * spectrogram.seconds)));
  by("spectrogram-axis").replaceChildren(...ticks);
  by("spectrogram-about").textContent = `Power in ${spectrogram.rows} bands of frequency, up to ${highest}; bright is loud.`;
}

export function showEvents(answer, go) {
  by("timeline-section").hidden = false;
  const events = answer.events.filter((event) => event.end_seconds > event.start_seconds);
  const unknown = answer.timeline.filter((one) => one.unknown).length;
  const parts = [`Mostly ${answerWords(answer)}`, `${events.length} ${events.length === 1 ? "event" : "events"}`];
  if (unknown) parts.push(`${unknown} of ${answer.timeline.length} windows unknown`);
  by("timeline-about").textContent = `${parts.join(" · ")}.`;
  const total = answer.sound.seconds;
  const head = element("div", undefined, "playhead");
  head.hidden = true;
  by("strip").replaceChildren(
    ...events.map((event) => {
      const piece = element("div", words(event.label));
      piece.style.left = `${(100 * event.start_seconds) / total}%`;
      piece.style.width = `${(100 * (event.end_seconds - event.start_seconds)) / total}%`;
      piece.style.opacity = String(0.45 + 0.55 * event.score);
      return piece;
    }),
    head,
  );
  by("events").replaceChildren(
    ...events.map((event) => {
      const item = element("li");
      const button = element("button");
      button.type = "button";
      const when = element("time", `${clock(event.start_seconds)}–${clock(event.end_seconds)}`);
      button.append(when, ` ${words(event.label)}`, element("span", `, ${percent(event.score)}`, "unseen"));
      button.addEventListener("click", () => go(event.start_seconds, true));
      item.append(button);
      return item;
    }),
  );
  by("windows").replaceChildren(
    ...answer.timeline.map((one) => {
      const row = element("tr");
      const look = element("button", "Look");
      look.type = "button";
      look.setAttribute("aria-label", `Look at ${clock(one.start_seconds)}`);
      look.addEventListener("click", () => go(one.start_seconds, false));
      const cell = element("td");
      cell.append(look);
      row.append(
        element("td", clock(one.start_seconds)),
        element("td", clock(one.end_seconds)),
        element("td", one.unknown ? "unknown" : words(one.label)),
        element("td", percent(one.classes[0].probability), "number"),
        cell,
      );
      return row;
    }),
  );
}
