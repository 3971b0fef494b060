// Requests to the server that served this page, and to nothing else.

const sentence = (text) => text && `${text[0].toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;

/** An answer that is no result: what it was, and what to do about it. */
export class Problem extends Error {
  /** @param {string} code @param {string} message @param {string} [hint] @param {number} [status] */
  constructor(code, message, hint = "", status = 0) {
    super(sentence(message));
    this.code = code;
    this.hint = sentence(hint);
    this.status = status;
  }
}

let [token, started] = ["", ""]; // of the server, which has another token after a new start

/** Ask for the token again. */
async function renew() {
  token = (await call("health")).csrf;
  if (JSON.stringify(await call("card")) !== started) throw new Problem("restarted", "The demo has been started again with another index or network.", "Reload the page.");
}

const waiting = new Set();

/** @type {(waits: number) => void} */
let onwait = () => {};

/** @param {(waits: number) => void} listener called with the number of requests that wait for a free place */
export function watchQueue(listener) { onwait = listener; }

/** @param {number} ms @param {AbortSignal} [signal] */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

/**
 * Ask the server. A full queue (429) is waited for as long as the server asks for.
 * @param {string} path below /api/
 * @param {{body?: unknown, form?: FormData, signal?: AbortSignal}} [options]
 * @returns {Promise<any>} the JSON of the answer, or its text
 */
export async function call(path, { body, form, signal } = {}) {
  const isPost = body !== undefined || form !== undefined;
  /** @type {Record<string, string>} */
  const headers = isPost ? { "X-CSRF-Token": token } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const init = { method: isPost ? "POST" : "GET", headers, body: form ?? (body === undefined ? undefined : JSON.stringify(body)), signal };
  const key = {};
  let isRenewed = false;
  try {
    for (let attempt = 0; ; attempt++) {
      let response;
      try {
        response = await fetch(`api/${path}`, init);
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new Problem("unreachable", "The server does not answer.", "Is dinoforge demo still running in its terminal?");
      }
      if (response.status === 429 && attempt < 8) {
        waiting.add(key);
        onwait(waiting.size);
        const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, 10);
        await pause(1000 * seconds, signal);
        continue;
      }
      try {
        return await read(response);
      } catch (error) {
        if (error.code !== "csrf" || isRenewed) throw error;
        isRenewed = true;
        await renew();
        headers["X-CSRF-Token"] = token;
      }
    }
  } finally {
    if (waiting.delete(key)) onwait(waiting.size);
  }
}

/** @param {Response} response */
async function read(response) {
  const isJson = (response.headers.get("Content-Type") || "").includes("json");
  const answer = isJson ? await response.json() : await response.text();
  if (response.ok) return answer;
  const { code = `http_${response.status}`, message = `The server answered ${response.status}.`, hint = "" } = isJson ? answer : {};
  throw new Problem(code, message, hint, response.status);
}

/** The models and indexes behind this page; the first index is the collection. */
export async function loadCard() {
  const [health, card] = await Promise.all([call("health"), call("card")]);
  [token, started] = [health.csrf, JSON.stringify(card)];
  const { models, ...rest } = card;
  const [first, second = null] = models.map((one) => ({ ...one.model, index: one.index, name: one.model.name.replace(/^.*[/:]|\.safetensors$/g, "") }));
  first.heads = rest.heads;
  const vectors = first.index.search?.vectors ?? {};
  const isSame = second && JSON.stringify([second.index.sources, second.index.num_images]) === JSON.stringify([first.index.sources, first.index.num_images]);
  return { ...first.index, kind: vectors.kind, recall: vectors.recall_at_10, ...rest, model: first, second, hasOneCollection: !second || isSame };
}

/**
 * Run a task again and again, of which only the last matters: the one before is cancelled.
 * @template {any[]} A
 * @param {AbortSignal} until aborted when the view is left
 * @param {(signal: AbortSignal, ...values: A) => Promise<void>} task
 * @returns {(...values: A) => Promise<void>}
 */
export function latest(until, task) {
  let current = new AbortController();
  return async (...values) => {
    current.abort();
    const mine = current = new AbortController();
    if (until.aborted) return;
    until.addEventListener("abort", () => mine.abort(), { once: true, signal: mine.signal });
    try {
      await task(mine.signal, ...values);
    } catch (error) {
      if (!mine.signal.aborted) throw error;
    }
  };
}

/** A picture of a row. @param {number} row @param {number} [model] whose index it is of @param {"thumb"|"image"} [kind] */
export const rowSource = (row, model = 0, kind = "thumb") => `api/rows/${row}/${kind}${model ? "?model=1" : ""}`;
