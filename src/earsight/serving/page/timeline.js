// The timeline of a long sound: a strip and a colour for each class, the events, and every window as a table.

import { answerWords, button, by, clock, element, oodWords, percent, secondsWords, words } from "./words.js";

const STRIPS = 8; // as many colours as style.css has; what sounds less shares one strip more

// Seconds that intervals cover together.
function covered(spans) {
  let until = -Infinity;
  return [...spans].sort((a, b) => a[0] - b[0]).reduce((sum, [begin, end]) => {
    const added = Math.max(0, end - Math.max(begin, until));
    until = Math.max(until, end);
    return sum + added;
  }, 0);
}

// From when to when windows are unknown: each stands for the time around its middle.
function unknownSpans(timeline, total) {
  const middles = timeline.map(({ start_seconds: start, end_seconds: end }) => (start + end) / 2);
  const spans = [];
  timeline.forEach((one, i) => {
    if (!one.unknown) return;
    const begin = i ? (middles[i - 1] + middles[i]) / 2 : 0;
    const end = i + 1 < middles.length ? (middles[i] + middles[i + 1]) / 2 : total;
    if (spans.length && begin <= spans.at(-1)[1] + 1e-6) spans.at(-1)[1] = end;
    else spans.push([begin, end]);
  });
  return spans;
}

// [{label, name, spans: [[begin, end, words]], seconds, events, color}], most seconds first.
export function stripsOf(answer) {
  const total = answer.sound.seconds;
  const found = new Map();
  for (const one of answer.events) {
    if (one.end_seconds <= one.start_seconds) continue;
    const span = [one.start_seconds, one.end_seconds, `${words(one.label)}, ${percent(one.score)}`];
    found.set(one.label, [...(found.get(one.label) ?? []), span]);
  }
  const strip = (name, spans) => ({ name, spans, seconds: covered(spans), events: spans.length });
  const all = [...found].map(([label, spans]) => ({ label, ...strip(words(label), spans) })).sort((a, b) => b.seconds - a.seconds);
  const strips = all.slice(0, all.length > STRIPS ? STRIPS - 1 : STRIPS).map((one, i) => ({ ...one, color: `c${i}` }));
  const rest = all.slice(strips.length);
  if (rest.length) strips.push({ ...strip(`${rest.length} other classes`, rest.flatMap(({ spans }) => spans)), color: "rest" });
  const unknown = unknownSpans(answer.timeline, total).map(([begin, end]) => [begin, end, "unknown"]);
  if (unknown.length) strips.push({ ...strip("unknown", unknown), color: "strange" });
  return strips;
}

// What a whole long sound mostly is, with its share of the seconds.
export function mostly(answer, strips) {
  const total = answer.sound.seconds;
  const first = strips.filter(({ color }) => color !== "rest").sort((a, b) => b.seconds - a.seconds)[0];
  if (!first) return `Nothing stands out; on average nearest to ${words(answer.label)}`;
  const share = `${first.seconds < 10 ? first.seconds.toFixed(1) : Math.round(first.seconds)} of ${total < 10 ? total.toFixed(1) : Math.round(total)} s`;
  return `${2 * first.seconds >= total ? "Mostly" : "Most of all"} ${first.name}: ${share}`;
}

export function showTimeline(answer, go) {
  const total = answer.sound.seconds;
  const strips = stripsOf(answer);
  by("timeline").hidden = by("strips").hidden = false;
  const events = answer.events.filter((event) => event.end_seconds > event.start_seconds);
  by("timeline-about").textContent = `${mostly(answer, strips)} · ${events.length} ${events.length === 1 ? "event" : "events"}`;
  by("strips").replaceChildren(...strips.map((strip) => showStrip(strip, total, go)));
  const colors = new Map(strips.map(({ label, color }) => [label, color]));
  by("events").replaceChildren(
    ...events.map((event) => {
      const item = element("li");
      const made = button(undefined, () => go(event.start_seconds, true));
      const when = element("time", `${clock(event.start_seconds)}–${clock(event.end_seconds)}`);
      const swatch = element("span", undefined, `swatch ${colors.get(event.label) ?? "rest"}`);
      swatch.setAttribute("aria-hidden", "true");
      made.append(swatch, when, ` ${words(event.label)}`, element("span", `, ${percent(event.score)}`, "unseen"));
      item.append(made);
      return item;
    }),
  );
  by("windows").replaceChildren(...answer.timeline.map((one) => showWindow(one, go)));
}

function showStrip(strip, total, go) {
  const item = element("li");
  const swatch = element("span", undefined, `swatch ${strip.color}`);
  swatch.setAttribute("aria-hidden", "true");
  const name = element("p", undefined, "small");
  const many = strip.color === "strange" ? "" : `${strip.events} ${strip.events === 1 ? "event" : "events"}, `;
  name.append(swatch, strip.name, element("span", ` · ${many}${secondsWords(strip.seconds)}`, "quiet"));
  const track = element("div", undefined, "strip");
  track.append(
    ...strip.spans.map(([begin, end, label]) => {
      const piece = element("div", undefined, strip.color);
      piece.title = `${label}, ${clock(begin)}–${clock(end)}`;
      piece.style.left = `${(100 * begin) / total}%`;
      piece.style.width = `${(100 * (end - begin)) / total}%`;
      return piece;
    }),
  );
  track.addEventListener("click", (event) => {
    const box = track.getBoundingClientRect();
    go(Math.max(0, Math.min(((event.clientX - box.left) / box.width) * total, total - 0.1)), true);
  });
  item.append(name, track);
  return item;
}

function showWindow(one, go) {
  const row = element("tr");
  const look = button("Look", () => go(one.start_seconds, false));
  look.setAttribute("aria-label", `Look at ${clock(one.start_seconds)}`);
  const cell = element("td");
  cell.append(look);
  const beside = one.unknown ? oodWords(one, "OOD") : percent(one.classes[0].probability);
  row.append(
    element("td", clock(one.start_seconds)),
    element("td", clock(one.end_seconds)),
    element("td", answerWords(one)),
    element("td", beside, "number"),
    cell,
  );
  return row;
}
