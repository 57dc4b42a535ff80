// The public API and nothing else: JSON calls, event streams that survive a lost connection, uploads with progress.

const WORDS = {
  CREDENTIALS_INVALID: "You are signed out. Please sign in again.",
  RATE_LIMITED: "Too many requests. Please wait a moment.",
  OVERLOADED: "The server is busy. Please try again in a moment.",
  UNAVAILABLE: "The server cannot be reached right now. Please try again.",
  QUOTA_EXHAUSTED: "The budget is spent.",
  TURN_ALREADY_RUNNING: "The previous answer is still being written.",
  PROVIDER_UNAVAILABLE: "No model could answer right now. Please try again.",
  PROVIDER_TIMEOUT: "The model took too long to answer.",
  RETRIEVAL_UNAVAILABLE: "The knowledge base cannot be searched right now.",
  CONTEXT_LENGTH_EXCEEDED: "The conversation is too long for this model. Start a new one.",
  DOCUMENT_TOO_LARGE: "The file is too large.",
  DOCUMENT_UNSUPPORTED: "This kind of file is not supported. Text, Markdown, HTML and PDF are.",
  DOCUMENT_ENCRYPTED: "The file is protected by a password.",
  DOCUMENT_UNREADABLE: "The file is damaged or holds no text.",
  SCOPE_MISSING: "Your account is not allowed to do this.",
};
const RECONNECT_MS = [300, 1000, 2000, 4000, 8000];

export class Problem extends Error {
  constructor(body, status) {
    super(WORDS[body.reason] || sentence(body.detail) || `The server answered ${status}.`);
    this.reason = body.reason || "";
    this.status = status;
    this.fields = body.errors || [];
  }
}

export function sentence(text) {
  if (!text) return "";
  const whole = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

export function key() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// What this tab has seen of the databases, the furthest of each place: sent along, so that replicas may answer it.
const seen = new Map();

function see(response) {
  for (const word of (response.headers.get("parley-position") || "").split(", ")) {
    const [place, at] = word.split("=");
    if (at && ordered(at) > ordered(seen.get(place) || "0-0")) seen.set(place, at);
  }
}

// Timeline and place in the log, as text that compares as the numbers do.
function ordered(at) {
  return at.split("-").map((part) => part.padStart(16, "0")).join("-");
}

function position() {
  return [...seen].map(([place, at]) => `${place}=${at}`).join(", ") || "none";
}

async function send(method, path, { body, headers: given = {}, signal } = {}) {
  const headers = { "parley-position": position(), ...given };
  let response;
  try {
    response = await fetch(path, {
      method, signal, credentials: "same-origin", cache: "no-store",
      headers: body === undefined ? headers : { "content-type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ reason: "UNAVAILABLE" }, 0);
  }
  see(response);
  if (!response.ok) throw new Problem(await response.json().catch(() => ({})), response.status);
  return response;
}

export async function call(method, path, options) {
  const response = await send(method, path, options);
  return response.status === 204 ? null : response.json();
}

export async function all(path, member) {
  const items = [];
  let token = "";
  do {
    const page = await call("GET", `${path}${path.includes("?") ? "&" : "?"}page_size=200&page_token=${encodeURIComponent(token)}`);
    items.push(...page[member]);
    token = page.next_page_token;
  } while (token);
  return items;
}

// Reads one response as server-sent events; calls onEvent for each.
async function read(response, onEvent) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { id: "", name: "message", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("id: ")) event.id = line.slice(4);
        else if (line.startsWith("event: ")) event.name = line.slice(7);
        else if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      if (event.data) onEvent({ ...event, data: JSON.parse(event.data) });
    }
  }
}

// Follows a stream to its end. `first` makes the first request and may be null; later ones go to `path()` with Last-Event-ID.
export async function follow({ first, path, after = 0, signal, onEvent, onLost = () => {}, onOpen = () => {} }) {
  let last = after;
  let failures = 0;
  let ended = false;
  let request = first;
  while (!ended) {
    try {
      const response = request
        ? await request()
        : await send("GET", path(), { signal, headers: { accept: "text/event-stream", ...(last ? { "last-event-id": String(last) } : {}) } });
      request = null;
      onOpen(response);
      if (response.status === 204) return;
      await read(response, (event) => {
        if (event.name === "error") throw new Problem(event.data, event.data.status);
        failures = 0;
        if (event.id) last = Number(event.id);
        ended = onEvent(event) === "end" || ended;
      });
    } catch (error) {
      if (signal && signal.aborted) return;
      const isLost = !(error instanceof Problem) || error.reason === "UNAVAILABLE" || error.reason === "OVERLOADED";
      if (!isLost || failures >= RECONNECT_MS.length) throw error;
    }
    if (ended || (signal && signal.aborted)) return;
    onLost();
    await new Promise((resolve) => setTimeout(resolve, RECONNECT_MS[Math.min(failures, RECONNECT_MS.length - 1)]));
    failures += 1;
    if (failures > RECONNECT_MS.length) throw new Problem({ reason: "UNAVAILABLE" }, 0);
  }
}

export function open(method, path, body, headers, signal) {
  return () => send(method, path, { body, signal, headers: { accept: "text/event-stream", ...headers } });
}

export function upload(path, file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => request.status < 300 ? resolve(request.response) : reject(new Problem(request.response || {}, request.status));
    request.onerror = () => reject(new Problem({ reason: "UNAVAILABLE" }, 0));
    const form = new FormData();
    form.append("file", file);
    request.send(form);
  });
}
