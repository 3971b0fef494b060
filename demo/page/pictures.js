// Pictures in hand: uploads ("u" and their id), images of the collection ("r" and their row; "q": of the second index).
import { call, Problem, rowSource } from "./api.js";

/** @type {Map<string, Promise<Picture>>} */
const opened = new Map();
const LIMIT = 64;
const STORE = "dinoforge-pictures";

/** @type {string[]} */
let refs = [];
try { refs = JSON.parse(sessionStorage.getItem(STORE) || "[]"); } catch { refs = []; }
let listener = () => {};

/** @param {() => void} changed called after the pictures in hand changed */
export function watchPictures(changed) { listener = changed; }
export const inHand = () => [...refs];

/** @param {string[]} next */
function keep(next) {
  if (next.join() === refs.join()) return;
  refs = next;
  try { sessionStorage.setItem(STORE, JSON.stringify(refs)); } catch { /* private windows may refuse; the list then ends with the page */ }
  listener();
}

/** @param {string} ref */
export function take(ref) {
  if (!refs.includes(ref)) keep([...refs, ref].slice(-LIMIT));
}

/** @param {string} ref */
export const drop = (ref) => keep(refs.filter((one) => one !== ref));

/** @param {string} ref */
export const rowOf = (ref) => (/^[rq]/.test(ref) ? Number(ref.slice(1)) : null);

let hasOneCollection = true;

/** Whether rows of both models are the same images. @param {boolean} one */
export function setCollections(one) { hasOneCollection = one; }

/** @param {number} row @param {number} model */
export const refOf = (row, model) => `${model && !hasOneCollection ? "q" : "r"}${row}`;

/** The index of a row: that of the model, if the collections are one. @param {string} ref @param {number} model */
const sideOf = (ref, model) => (hasOneCollection ? model : Number(ref.startsWith("q")));

/** The row of a picture in the index of a model, if it is in there. @param {string} ref @param {number} model */
export const rowIn = (ref, model) => (sideOf(ref, model) === model ? rowOf(ref) : null);

/** @param {string} ref @returns {string} a small picture of it */
export function smallOf(ref) {
  const row = rowOf(ref);
  return row === null ? `api/images/${encodeURIComponent(ref.slice(1))}` : rowSource(row, sideOf(ref, 0));
}

/** @param {string} ref */
export function nameOf(ref) {
  const row = rowOf(ref);
  return row === null ? "your picture" : `image ${row}`;
}

/** What the server wants in a request about a picture. @param {Picture} picture */
export const asked = (picture) => (picture.row === null ? { id: picture.id } : { row: picture.row });

/**
 * The picture as the server knows it, with its patches for one model.
 * @param {string} ref @param {number} model
 * @returns {Promise<Picture>}
 */
export function open(ref, model) {
  const key = `${model} ${ref}`;
  const known = opened.get(key);
  if (known) return known;
  const opening = load(ref, model);
  opened.set(key, opening);
  opening.then(() => take(ref), (error) => { opened.delete(key); if (error.code === "expired") drop(ref); });
  return opening;
}

/** @param {string} ref @param {number} model @returns {Promise<Picture>} */
async function load(ref, model) {
  const row = rowOf(ref);
  let id = ref.slice(1);
  if (row !== null) {
    if (!Number.isInteger(row)) throw new Problem("no_such_image", `"${ref}" names no image.`, "Choose another picture.");
    const side = sideOf(ref, model);
    const answer = await call("images/from-row", { body: { row, model: side } });
    if (side === model) return { ...answer, ref, row };
    id = answer.id;
  }
  return { ...await call(`images/${encodeURIComponent(id)}/status?model=${model}`), ref, id, row: null };
}

/**
 * Do something with pictures, unless it is cancelled while they open; if the server has dropped them meanwhile, open them again once.
 * @param {string[]} wanted @param {number} model @param {AbortSignal} signal
 * @param {(pictures: Picture[]) => Promise<any>} task
 */
export async function withPictures(wanted, model, signal, task) {
  const run = async () => {
    const pictures = await Promise.all(wanted.map((ref) => open(ref, model)));
    signal.throwIfAborted();
    return task(pictures);
  };
  try {
    return await run();
  } catch (error) {
    if (error.code !== "expired") throw error;
    wanted.forEach((ref) => opened.delete(`${model} ${ref}`));
    return run();
  }
}

/**
 * Send a file to the server.
 * @param {Blob} file @param {boolean} blur whether faces are blurred instead of refused
 * @returns {Promise<{ref: string, faces: number}>} what it is called, and how many faces are blurred in it
 */
export async function upload(file, blur = false) {
  const form = new FormData();
  form.append("file", file, "picture"); // the name of the user's file stays here
  const answer = await call(`images${blur ? "?faces=blur" : ""}`, { form });
  const ref = `u${answer.id}`;
  take(ref);
  return { ref, faces: answer.faces };
}

/** @param {Picture} picture */
export const sourceOf = (picture) => `api/images/${picture.id}`;
