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
  let response;
  try {
    response = await fetch("model");
  } catch {
    throw gone();
  }
  return read(response.status, await response.text());
}

// POST a sound; `params` are those of /predict. A busy service is asked again, as often as is polite. `onSent` is called
// with the share of the upload that is out.
export async function predict(blob, name, params, { signal, onSent } = {}) {
  const form = new FormData();
  form.append("file", blob, name);
  const address = `predict?${new URLSearchParams(params)}`;
  for (let attempt = 1; ; attempt += 1) {
    const answer = await post(address, form, signal, onSent);
    if (answer.status !== 503 || attempt === TRIES) return read(answer.status, answer.text);
    await new Promise((done) => setTimeout(done, 1000 * answer.wait * attempt));
    signal?.throwIfAborted();
  }
}

// XMLHttpRequest, for fetch says nothing of how far an upload is.
function post(address, form, signal, onSent = () => {}) {
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    if (signal?.aborted) return fail(signal.reason);
    signal?.addEventListener("abort", stop);
    request.upload.onprogress = ({ loaded, total }) => onSent(total ? loaded / total : 0);
    request.onload = () => done({ status: request.status, text: request.responseText, wait: Number(request.getResponseHeader("Retry-After")) || 1 });
    request.onerror = () => fail(gone());
    request.onabort = () => fail(new DOMException("cancelled", "AbortError"));
    request.onloadend = () => signal?.removeEventListener("abort", stop);
    request.open("POST", address);
    request.send(form);
  });
}

const gone = () => new Refused("The service does not answer.", "See whether it is still running, then try again.", "unreachable");

function read(status, text) {
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Refused(`The service answered ${status} without words.`, "Try again.", "no_words");
  }
  if (status >= 200 && status < 300) return body;
  const error = body.error ?? {};
  throw new Refused(sentence(error.message ?? `The service answered ${status}`), sentence(error.what_to_do ?? "Try again"), error.code);
}

function sentence(text) {
  const clean = text.trim();
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?]$/.test(clean) ? "" : ".");
}

export function bytes(base64) {
  return Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
}
