// Talks to the service: JSON requests, streams of events, files. It keeps the API key for this tab, and shows nothing.

const KEY = "dragoman-key";

/** An answer that is an error: its problem details, and after how many seconds one may try again. */
export class ServiceError extends Error {
  constructor(status, problem, retrySeconds) {
    super(explained(problem) || `HTTP ${status}`);
    this.status = status;
    this.problem = problem;
    this.retrySeconds = retrySeconds;
  }
}

function explained(problem) {
  const places = (problem?.errors ?? []).map((each) => each.detail).filter(Boolean);
  return places.length ? places.join("; ") : problem?.detail || problem?.title || problem?.error;
}

export function keepKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, "X-API-Key": key } : more;
}

async function answered(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  let problem = null;
  try {
    problem = await response.json();
  } catch {
    // no JSON: a proxy answered, and the status has to do
  }
  const seconds = Number.parseFloat(response.headers.get("Retry-After"));
  throw new ServiceError(response.status, problem, Number.isFinite(seconds) ? seconds : null);
}

function sent(method, body, signal) {
  const json = { "Content-Type": "application/json" };
  return { method, signal, headers: headers(body === undefined ? {} : json), body: JSON.stringify(body) };
}

/** POST a body, and return the parsed reply. */
export async function request(path, body, signal) {
  return (await answered(path, sent("POST", body, signal))).json();
}

/** Send a request of any kind, and return the parsed reply, null where it has none. */
export async function call(method, path, body, signal) {
  const response = await answered(path, sent(method, body, signal));
  return response.status === 204 ? null : response.json();
}

/** POST a form, such as one with a file. */
export async function upload(path, form, signal) {
  return (await answered(path, { method: "POST", body: form, headers: headers(), signal })).json();
}

/** Fetch a file, and let the browser save it. */
export async function download(path, name) {
  const blob = await (await answered(path, { headers: headers() })).blob();
  save(blob, name);
}

/** Let the browser save something. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * POST a body whose reply is a stream of server-sent events, and call `onEvent(name, data)` for each.
 *
 * A stream that ends before the service said that it is done is an error of the network, as `fetch` has them.
 */
export async function stream(path, body, signal, onEvent) {
  const response = await answered(path, sent("POST", { ...body, stream: true }, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isOver = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done && isOver) return;
    if (done) throw new TypeError("the stream ended early");
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
      const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
      if (name === "error") {
        const problem = JSON.parse(data);
        throw new ServiceError(problem.status, problem, null);
      }
      isOver ||= name === "done";
      if (name) onEvent(name, JSON.parse(data));
    }
  }
}
