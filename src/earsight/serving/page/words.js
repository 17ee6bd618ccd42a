// Numbers and names as people read them, and small elements. Names come from files and models and go in as text.

export const by = (id) => document.getElementById(id);

// As players write it: m:ss, with a tenth where `tenths` says so or there is one.
export function clock(seconds, tenths = false) {
  const count = Math.round(seconds * 10);
  const minutes = Math.floor(count / 600);
  const rest = (count % 600) / 10;
  const shown = tenths || !Number.isInteger(rest) ? rest.toFixed(1) : String(rest);
  return `${minutes}:${rest < 10 ? "0" : ""}${shown}`;
}

// No probability is certain.
export function percent(share) {
  const shown = (100 * share).toFixed(1);
  return `${shown === "100.0" ? ">99.9" : shown === "0.0" ? "<0.1" : shown} %`;
}

// How far something is off, in per cent, with as many digits as tell it from a limit.
export function off(share, limit) {
  const digits = [1, 2, 3, 4, 5, 6].find((count) => Number((100 * share).toFixed(count)) !== 100 * limit) ?? 1;
  return (100 * share).toFixed(digits);
}

// A share of what can be counted or measured, which can be all of it.
export const part = (share) => `${(100 * share).toFixed(1).replace(/\.0$/, "")} %`;

export const words = (label) => label.replaceAll("_", " ");

export const score = (number) => Number(number.toPrecision(4)).toString();

export const secondsWords = (seconds) => (seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`);

export function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function button(text, onClick, className) {
  const made = element("button", text, className);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

// What an answer says, in a few words: one class, or those that sound together.
export function answerWords(answer) {
  if (answer.unknown) return "unknown";
  if (!answer.labels) return words(answer.label);
  return answer.labels.map(words).join(", ") || "none of its classes";
}

export const oodWords = ({ novelty: own }, name) => (own === null ? "" : `${name} ${score(own)}`);

// What stands beside that: the probability of what is named; of unknown the OOD score.
export function scoreWords(answer) {
  if (answer.unknown) return oodWords(answer, "OOD score");
  const named = answer.labels ? answer.classes.filter(({ label }) => answer.labels.includes(label)) : answer.classes.slice(0, 1);
  return named.map(({ probability }) => percent(probability)).join(", ");
}

// Round places of an axis that ends at `end`: at most `most` of them.
export function ticks(start, end, most) {
  const steps = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300];
  const step = steps.find((one) => (end - start) / one <= most) ?? 600;
  const first = Math.ceil(start / step - 1e-6);
  const count = Math.floor((end - start) / step + 1e-6) + 1;
  const places = Array.from({ length: count }, (_, i) => (first + i) * step).filter((place) => place <= end + 1e-6);
  return places.map((place) => [place, clock(place, step < 1)]);
}

// A ruler of seconds below a plot.
export function showSeconds(ruler, start, seconds) {
  ruler.replaceChildren(
    ...ticks(start, start + seconds, Math.max(2, Math.floor(ruler.clientWidth / 70))).map(([place, text]) => {
      const made = element("span", text);
      made.style.left = `${(100 * (place - start)) / seconds}%`;
      return made;
    }),
  );
}
