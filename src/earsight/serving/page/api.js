// The service, as the page asks it. Every refusal comes back as a Refused with what was found and what to do.

export class Refused extends Error {
  constructor(message, remedy, code = "") {
    super(message);
    this.remedy = remedy;
    this.code = code;
  }
}

const TRIES = 4;

export async function model() {
  return await read(await send("model"));
}

// POST a sound; `params` are those of /predict. A busy service is asked again, as often as is polite.
export async function predict(blob, name, params, signal) {
  const form = new FormData();
  form.append("file", blob, name);
  const query = new URLSearchParams(params);
  for (let attempt = 1; ; attempt += 1) {
    const response = await send(`predict?${query}`, { method: "POST", body: form, signal });
    if (response.status !== 503 || attempt === TRIES) return await read(response);
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((done) => setTimeout(done, 1000 * seconds * attempt));
  }
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The service does not answer.", "See whether it is still running, then try again.", "unreachable");
  }
}

async function read(response) {
  let body;
  try {
    body = await response.json();
  } catch {
    throw new Refused(`The service answered ${response.status} without words.`, "Try again.", "no_words");
  }
  if (response.ok) return body;
  const error = body.error ?? {};
  throw new Refused(sentence(error.message ?? `The service answered ${response.status}`), sentence(error.what_to_do ?? "Try again"), error.code);
}

function sentence(text) {
  const clean = text.trim();
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?]$/.test(clean) ? "" : ".");
}

export function bytes(base64) {
  return Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
}
