// The list of sounds: a row each with its upload, its answer or why there is none. One sound is sent at a time.

import { predict, Refused } from "./api.js";
import { decoded } from "./wav.js";
import { answerWords, button, by, element, scoreWords } from "./words.js";

const TOP = 8;
const KEPT = 40; // answers with their spectrograms; of older ones the row alone is kept, and they are asked for again
const SOUND = /\.(wav|wave|flac|ogg|oga|opus|mp3|mp2|aiff?|aifc|au|snd|caf|w64|rf64|m4a|m4b|aac|mp4|mov|webm|weba|mka|mkv|wma|amr|3gp|wv)$/i;

let items = [];
let running = false;
let hooks = null; // about(): the service's limits; shown(item), hidden(): what to do with results; say(text)

export function start(given) {
  hooks = given;
  by("clear").addEventListener("click", () => {
    items.forEach((item) => item.controller.abort());
    items = [];
    hooks.hidden();
    refresh();
  });
}

// Take sounds in: [[blob, name]]. The first of them that is answered is shown; what was shown before goes.
export function take(sounds) {
  if (!sounds.length) return;
  const added = sounds.map(([blob, name]) => ({ blob, name, state: "waiting", sent: 0, answer: null, error: null, decoded: false, controller: new AbortController() }));
  items.push(...added);
  items.forEach((item) => { item.current = false; });
  hooks.hidden();
  by("files").replaceChildren(...items.map(rowOf));
  refresh();
  added.at(-1).row.scrollIntoView?.({ block: "nearest" });
  if (!running) work();
}

// Those of a folder's files that may be sounds, and how many others there are.
export function sounds(files) {
  const found = [...files].filter((file) => /^(audio|video)\//.test(file.type) || SOUND.test(file.name));
  return [found, files.length - found.length];
}

async function work() {
  running = true;
  let asked = 0;
  for (let item; (item = items.find(({ state }) => state === "waiting")); ) {
    await ask(item);
    asked += 1;
    refresh();
    if (item.state === "done" && !items.some(({ current }) => current)) await show(item);
    else if (item.state === "refused") hooks.say(`${item.name} is refused: ${item.error.message}`);
  }
  running = false;
  refresh();
  if (asked > 1 && items.some(({ state }) => state === "done")) hooks.say(`Done: ${by("list-about").textContent}.`);
}

async function ask(item) {
  item.controller = new AbortController();
  Object.assign(item, { state: "sending", sent: 0, error: null });
  refresh();
  hooks.say(`Sending ${item.name} …`);
  try {
    fits(item.blob, item.name);
    try {
      item.answer = await send(item);
    } catch (error) {
      if (error.code !== "needs_formats") throw error;
      item.answer = await sendDecoded(item, error);
    }
    item.answer.sound.name = item.name;
    item.state = "done";
  } catch (error) {
    if (!(error instanceof Refused) && error.name !== "AbortError") console.error(error);
    item.state = error.name === "AbortError" ? "cancelled" : "refused";
    item.error = error instanceof Refused ? error : new Refused("The page has a fault.", "Reload it and try again.");
  }
  items.filter(({ answer, current }) => answer?.spectrogram && !current).slice(0, -KEPT).forEach(({ answer }) => { answer.spectrogram = null; });
}

function fits(blob, name) {
  const most = hooks.about()?.most_bytes;
  if (!most || blob.size <= most) return;
  const size = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
  throw new Refused(`${name} has ${size(blob.size)} MB; this service takes ${size(most)} MB.`, "Choose a shorter sound, or a compressed one (FLAC, OGG, MP3).", "too_large");
}

function send(item) {
  const onSent = (share) => {
    Object.assign(item, { sent: share, state: share < 1 ? "sending" : "working" });
    refreshRow(item);
    if (share >= 1) hooks.say(`Listening to ${item.name} …`);
  };
  return predict(item.blob, item.name, { top: TOP, spectrogram: true }, { signal: item.controller.signal, onSent });
}

// What the service has no decoder for, this browser may have one for.
async function sendDecoded(item, refusal) {
  const made = await decoded(item.blob);
  item.controller.signal.throwIfAborted();
  if (!made) throw new Refused(`${refusal.message.replace(/\.$/, "")}; nor does this browser.`, "Send it as WAV, FLAC, OGG or MP3.", refusal.code);
  fits(made, `${item.name}, decoded by this browser,`);
  Object.assign(item, { blob: made, decoded: true });
  return send(item);
}

async function show(item) {
  items.forEach((one) => { one.current = one === item; });
  if (!item.answer.spectrogram) await ask(item);
  refresh();
  if (item.state === "done") await hooks.shown(item);
}

function rowOf(item) {
  if (item.row) return item.row;
  item.row = element("li");
  item.pick = button(undefined, () => show(item), "pick");
  item.why = element("p", undefined, "small");
  item.bar = element("progress");
  item.bar.max = 1;
  item.bar.setAttribute("aria-label", `Upload of ${item.name}`);
  item.end = button("Cancel", () => end(item), "quietly");
  item.row.append(item.pick, item.end, item.bar, item.why);
  return item.row;
}

function end(item) {
  if (["sending", "working"].includes(item.state)) return item.controller.abort();
  if (item.state === "waiting") item.state = "cancelled";
  else if (item.state === "refused" || item.state === "cancelled") {
    item.state = "waiting";
    if (!running) work();
  }
  refresh();
}

const STATES = { waiting: "waits", sending: "is sent", working: "is listened to", cancelled: "cancelled" };

function refreshRow(item) {
  rowOf(item);
  const { state, answer, error } = item;
  item.row.dataset.state = state;
  item.pick.disabled = state !== "done";
  item.pick.setAttribute("aria-current", String(Boolean(item.current)));
  const beside = state === "done" ? `${answerWords(answer)} · ${scoreWords(answer)}` : state === "refused" ? "refused" : STATES[state];
  item.pick.replaceChildren(element("span", item.name, "name"), element("span", beside, "beside"));
  item.why.hidden = state !== "refused";
  item.why.textContent = state === "refused" ? `${error.message} ${error.remedy}` : "";
  item.bar.hidden = !["sending", "working"].includes(state);
  if (state === "sending") item.bar.value = item.sent;
  else item.bar.removeAttribute("value");
  item.end.hidden = state === "done";
  item.end.textContent = ["refused", "cancelled"].includes(state) ? "Try again" : "Cancel";
  item.end.setAttribute("aria-label", `${item.end.textContent}: ${item.name}`);
}

function refresh() {
  items.forEach(refreshRow);
  by("files").replaceChildren(...items.map(rowOf));
  const count = (wanted) => items.filter(({ state }) => state === wanted).length;
  by("list").hidden = !items.length || (items.length === 1 && items[0].state === "done");
  const parts = [`${count("done")} of ${items.length} answered`];
  for (const state of ["refused", "cancelled"]) if (count(state)) parts.push(`${count(state)} ${state}`);
  by("list-about").textContent = parts.join(" · ");
  document.documentElement.dataset.sounds = items.length ? "some" : "none";
}
