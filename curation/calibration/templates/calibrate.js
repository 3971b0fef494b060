"use strict";
const element = (id) => document.getElementById(id);
let state = JSON.parse(element("start").textContent);
let at = 0;
const given = []; // numbers of the pairs answered on this page, for undo
const cache = new Map();
const pending = new Map(); // number of a pair -> answer that is being saved
let sending = Promise.resolve();
let shown = -1; // number of the pair whose pictures are on the page

const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1) + " %");
const range = (interval) => (interval === null ? "" : `${(100 * interval[0]).toFixed(1)}–${(100 * interval[1]).toFixed(1)}`);

async function ask(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.json();
}

function pictures(number) {
  if (!cache.has(number)) {
    cache.set(number, ask(`pair/${number}`).then((pair) => pair.pictures));
    cache.get(number).catch(() => cache.delete(number));
    if (cache.size > 40) cache.delete(cache.keys().next().value);
  }
  return cache.get(number);
}

function cell(row, tag, text, small) {
  const node = document.createElement(tag);
  node.textContent = text;
  if (tag === "td") node.className = "num";
  if (small) node.appendChild(document.createElement("small")).textContent = small;
  row.appendChild(node);
}

function showState() {
  element("progress").max = state.sampled;
  element("progress").value = state.labeled;
  const target = percent(state.target);
  element("recommended").textContent = state.threshold === null
    ? `No threshold reaches a precision of ${target} so far.`
    : `Recommended for a precision of ${target}: ${state.threshold}.`;
  const rows = state.bins.map((bin, number) => {
    const all = state.thresholds[number];
    const row = document.createElement("tr");
    if (bin.low === state.threshold) row.className = "chosen";
    cell(row, "th", String(bin.low));
    row.firstChild.scope = "row";
    for (const value of [bin.pairs, bin.same, bin.different]) cell(row, "td", value.toLocaleString("en"));
    cell(row, "td", percent(bin.precision), range(bin.interval));
    cell(row, "td", percent(all.precision), range(all.precision_interval));
    cell(row, "td", percent(all.recall), range(all.recall_interval));
    return row;
  });
  element("bins").replaceChildren(...rows.reverse());
}

function fill(id, uri, name) {
  const image = document.createElement("img");
  if (uri) { image.src = uri; image.alt = name; }
  else { image.remove(); }
  element(id).replaceChildren(uri ? image : "no picture");
}

function showStatus() {
  const answer = state.answers[at];
  for (const name of ["same", "different"]) element(name).setAttribute("aria-pressed", String(answer === name));
  element("undo").disabled = !given.length && !answer;
  const labeled = state.answers.filter((one) => one).length;
  element("status").textContent = `Pair ${at + 1} of ${state.sampled}, ${labeled} answered` + (answer ? `; this one: ${answer}` : "");
}

async function show() {
  const number = at;
  showStatus();
  try {
    const [left, right] = await pictures(number);
    if (number !== at) return;
    fill("left", left, "First picture");
    fill("right", right, "Second picture");
    shown = number;
    for (const other of [number + 1, number + 2]) if (other < state.sampled) pictures(other).catch(() => {});
  } catch (error) { report(error); }
}

function report(error) {
  element("problem").textContent = error === null
    ? "" : `Not saved or not loaded: ${error.message}. Is dinoforge calibrate still running?`;
}

// The next pair without an answer, else the next one.
function following() {
  for (let step = 1; step <= state.sampled; step++) {
    const other = (at + step) % state.sampled;
    if (!state.answers[other]) return other;
  }
  return Math.min(at + 1, state.sampled - 1);
}

// The page goes on at once; answers are saved in their order.
function mark(number, answer) {
  const entry = { answer };
  pending.set(number, entry);
  state.answers[number] = answer;
  sending = sending.then(async () => {
    try {
      state = await ask(`answer/${number}`, { method: "POST", body: JSON.stringify({ answer }) });
      if (pending.get(number) === entry) pending.delete(number);
      for (const [other, one] of pending) state.answers[other] = one.answer;
      showState();
      showStatus();
      report(null);
    } catch (error) { report(error); }
  });
}

function decide(answer) {
  if (shown !== at) return; // nobody has seen this pair yet
  const number = at;
  mark(number, answer);
  given.push(number);
  at = following();
  show();
}

function undo() {
  const number = given.length ? given.pop() : at;
  mark(number, null);
  at = number;
  show();
}

function move(step) {
  at = Math.max(0, Math.min(state.sampled - 1, at + step));
  show();
}

const actions = {
  same: () => decide("same"), different: () => decide("different"), undo,
  previous: () => move(-1), next: () => move(1),
};
const keys = { s: "same", d: "different", u: "undo", ArrowLeft: "previous", ArrowRight: "next" };
for (const name of Object.keys(actions)) element(name).addEventListener("click", actions[name]);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const name = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (name) { event.preventDefault(); actions[name](); }
});

at = state.answers.findIndex((answer) => !answer);
if (at < 0) at = 0;
showState();
show();
