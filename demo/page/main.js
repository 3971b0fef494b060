// The frame around the views: addresses, pictures in hand, keys, dialogs.
import { call, loadCard, Problem, watchQueue } from "./api.js";
import { announce, button, count, element, factList, find, h, isChord, plural, segmented, toggle } from "./dom.js";
import { drop, inHand, nameOf, setCollections, smallOf, upload, watchPictures } from "./pictures.js";
import { fault, shot, shots } from "./results.js";
import attention from "./views/attention.js";
import collection from "./views/collection.js";
import colors from "./views/colors.js";
import dense from "./views/dense.js";
import duplicates from "./views/duplicates.js";
import map from "./views/map.js";
import match from "./views/match.js";
import parts from "./views/parts.js";
import search from "./views/search.js";
import segment from "./views/segment.js";

/** @type {View[]} */
const VIEWS = [collection, search, parts, match, colors, attention, segment, dense, duplicates, map];

/** What no control shows but the view itself. */
const STATE = ["of", "row", "add", "sub", "plus", "minus", "with", "lasso", "clusters", "classes", "hide", "zoom"];

/** @type {any} */
let card = null;
/** @type {{key: string, models: string, look: string, controller: AbortController, updates: (() => void|Promise<void>)[], params: URLSearchParams}|null} */
let current = null;

function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const view = VIEWS.find((one) => one.key === path) || VIEWS[0];
  return { view, params: new URLSearchParams(query) };
}

/** @param {string} key @param {URLSearchParams|Record<string, string|number>} params */
function link(key, params) {
  const query = new URLSearchParams(/** @type {any} */ (params));
  const text = query.toString().replaceAll("%2C", ",");
  return `#/${key}${text ? `?${text}` : ""}`;
}

/** The pictures that an address names. @param {URLSearchParams} params */
const named = (params) => (params.get("of") || "").split(",").filter(Boolean);

const networks = () => [card.model, card.second].filter(Boolean);

/** The views that work with some of the models. */
const offered = (models = networks()) => VIEWS.filter((one) => models.some((network) => !one.missing?.(network)));

/** @param {number} model */
const networkOf = (model) => networks()[model];

/** The models that are shown. @param {URLSearchParams} params */
const modelsOf = (params) => (card.second ? { 1: [1], both: [0, 1] }[params.get("model") || ""] || [0] : [0]);

// ---- drawing

/** @param {boolean} [isOwn] whether a control of the view changed the address, which then shows it already */
function draw(isOwn = false) {
  const { view, params } = address();
  // A view that names no picture starts with the last one in hand; Matching needs two.
  const [used, least] = [named(params), view.pictures > 2 ? 1 : view.pictures];
  const of = [...new Set([...used, ...inHand().reverse()])].slice(0, Math.max(least, used.length)).join();
  if (view.pictures && of !== used.join()) {
    params.set("of", of);
    history.replaceState(null, "", link(view.key, params));
  }
  const models = modelsOf(params).join();
  const isEmpty = view.pictures > 0 && !named(params).length;
  const key = `${view.key}${isEmpty ? " empty" : ""}`;
  drawHand();
  drawTools(params);
  drawViews(view);
  const look = [...params].filter(([name]) => !STATE.includes(name)).join();
  if (current && current.key === key && current.models === models && (isOwn || current.look === look)) {
    current.look = look;
    replaceParams(current.params, params);
    current.updates.forEach((update) => void update());
    return;
  }
  current?.controller.abort();
  current = { key, models, look, controller: new AbortController(), updates: [], params };
  document.title = `${view.name} - dinoforge demo`;
  const heading = h("h1", { tabindex: -1, text: view.name });
  const main = element("main");
  main.replaceChildren(h("div", { class: "intro" }, heading, h("p", { class: "lead", text: view.lead })));
  main.append(isEmpty && offered(modelsOf(params).map(networkOf)).includes(view) ? welcome() : panes(view, params));
  scrollTo(0, 0);
}

/** @param {View} view @param {URLSearchParams} params */
function panes(view, params) {
  const models = modelsOf(params);
  const all = h("div", { class: models.length > 1 ? "panes two" : "panes" });
  for (const model of models) {
    const network = networkOf(model);
    const pane = h("section", { class: "pane", "aria-label": models.length > 1 ? `Model ${model ? "B" : "A"}: ${network.name}` : view.name });
    if (models.length > 1) pane.append(h("h2", { class: "model" }, h("b", { text: model ? "B" : "A" }), ` ${network.name}`));
    const root = h("div", { class: `view ${view.key}` });
    pane.append(root);
    all.append(pane);
    const missing = view.missing?.(network);
    if (missing) {
      root.append(h("p", { class: "empty", text: missing }));
      continue;
    }
    /** @type {Context} */
    const ctx = { params, refs: () => named(params), number: (key, preset) => Number(params.get(key) ?? preset), model, card, network, go, link: (key, more) => link(key, { ...common(params, key === view.key), ...more }), views: offered([network]).filter((one) => one.pictures), signal: current.controller.signal };
    try {
      current.updates.push(view.mount(root, ctx));
    } catch (error) {
      fault(root, error);
    }
  }
  queueMicrotask(() => current.updates.forEach((update) => void update()));
  return all;
}

/** What stays the same between views, or in one view with other pictures. @param {URLSearchParams} params @param {boolean} [isSame] */
function common(params, isSame) {
  return Object.fromEntries([...params].filter(([key]) => (isSame ? !STATE.includes(key) : ["model", "map"].includes(key))));
}

/** Another view of the pictures in use. @param {View} view */
function linkTo(view) {
  const { params } = address();
  const of = named(params).slice(0, view.pictures).join();
  return link(view.key, { ...common(params), ...(of && { of }) });
}

/** @param {URLSearchParams} old @param {URLSearchParams} fresh */
function replaceParams(old, fresh) {
  for (const key of [...old.keys()]) old.delete(key);
  for (const [key, value] of fresh) old.set(key, value);
}

/** @param {Record<string, string|number|null>} changes @param {boolean} [push] whether Back returns to before the change */
function go(changes, push = false) {
  const { view, params } = address();
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === "") params.delete(key);
    else params.set(key, String(value));
  }
  const next = link(view.key, params);
  if (next === location.hash) return;
  history[push ? "pushState" : "replaceState"](null, "", next);
  draw(true);
}

/** @param {View} view */
function drawViews(view) {
  const links = () => [...element("views").querySelectorAll("a")];
  const focused = links().indexOf(/** @type {any} */ (document.activeElement));
  element("views").replaceChildren(...offered().map((one) => h("li", {},
    h("a", { href: linkTo(one), "aria-keyshortcuts": one.letter, "aria-current": one === view ? "page" : null, text: one.name }))));
  if (focused >= 0) links()[focused].focus();
  else find(element("views"), "[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

let isMirroring = false;

/** Controls of one model change those of the other, which read the same address. @param {Event} event */
function mirror(event) {
  const pane = /** @type {HTMLElement} */ (event.target).closest(".panes.two .pane");
  if (isMirroring || !pane) return;
  isMirroring = true;
  const inputs = (one) => [...one.querySelectorAll(".controls input, .controls select")];
  const other = pane.nextElementSibling ?? pane.previousElementSibling;
  inputs(pane).forEach((one, at) => {
    const twin = inputs(other)[at];
    if (!twin || (twin.value === one.value && twin.checked === one.checked)) return;
    [twin.value, twin.checked] = [one.value, one.checked];
    if (twin.type !== "radio" || twin.checked) twin.dispatchEvent(new Event(twin.type === "range" ? "input" : "change"));
  });
  isMirroring = false;
}

/** @param {URLSearchParams} params */
function drawTools(params) {
  const help = button("?", showHelp, { "aria-label": "Keys and help", class: "round" });
  const models = card.second ? segmented("Model", [["0", "A"], ["1", "B"], ["both", "Both"]], params.get("model") || "0",
    (model) => go({ model: model === "0" ? null : model }, true)) : null;
  const focused = /** @type {HTMLInputElement|null} */ (document.activeElement?.closest("#tools input"))?.value;
  element("tools").replaceChildren(...[models, help].filter(Boolean));
  if (focused) find(element("tools"), "input:checked")?.focus();
}

function drawFacts() {
  element("facts").replaceChildren(h("b", { text: networks().map((one) => one.name).join(" and ") }),
    ` · ${plural(card.num_images, "image")} · ${card.kind === "flat" ? "exact search" : `recall@10 ${card.recall.toFixed(3)}`} `, button("About", showCard, { class: "plain" }));
  const untrained = networks().filter((one) => !one.trained).map((one) => one.name);
  const banner = (title, text) => h("p", { class: "banner" }, h("b", { text: title }), text);
  element("banners").replaceChildren(
    untrained.length ? banner("These features are not trained. ", `Random weights: ${untrained.join(" and ")}. Similarities reflect colors and the architecture, nothing learned.`) : "",
    card.faces === "off" ? banner("Faces are not detected. ", "Pictures of people are neither refused nor blurred.") : "");
}

// ---- pictures in hand

function drawHand() {
  const { view, params } = address();
  const used = named(params);
  const many = view.pictures > 1;
  const items = [...new Set([...used, ...inHand()])].map((ref) => {
    const at = used.indexOf(ref);
    const label = `${nameOf(ref)}${at >= 0 ? `, in use${many ? ` as picture ${at + 1}` : ""}` : ""}`;
    return h("li", {}, h("button", {
      type: "button", class: "picture", "aria-pressed": String(at >= 0), "aria-label": label, "data-ref": ref,
      onclick: () => choosePicture(ref), onkeydown: (event) => { if (event.key === "Delete") discard(ref); },
    }, h("img", { src: smallOf(ref), alt: "", onerror: (event) => event.target.replaceWith("missing") }), many && at >= 0 ? h("span", { class: "order", text: at + 1 }) : null),
    button("×", () => discard(ref), { class: "discard", "aria-label": `Remove ${nameOf(ref)}`, tabindex: -1 }));
  });
  const active = /** @type {HTMLElement|null} */ (document.activeElement?.closest("#hand [data-ref]"))?.dataset.ref;
  element("hand").hidden = false;
  element("held").replaceWith(items.length ? h("ul", { id: "held", "aria-label": "Your pictures" }, ...items)
    : h("p", { id: "held", class: "note", text: "Add, paste or drop a picture, or choose one of the collection." }));
  if (active) find(element("hand"), `[data-ref="${CSS.escape(active)}"]`)?.focus();
}

/** Change the pictures of the address; what belongs to the first goes with it. @param {string[]} next @param {boolean} [push] */
function use(next, push) {
  const isFirst = next[0] === named(address().params)[0];
  go({ of: next.join(), ...(isFirst ? {} : { add: null, sub: null, plus: null, minus: null, with: null }) }, push);
}

/** @param {string} ref */
function choosePicture(ref) {
  const { view, params } = address();
  const used = named(params);
  const rest = used.filter((one) => one !== ref);
  if (!view.pictures) location.hash = link("search", { ...common(params), of: ref });
  else use(rest.length && rest.length < used.length ? rest : [...rest, ref].slice(-view.pictures), true);
  announce(`${nameOf(ref)} chosen`);
}

/** @param {string} ref */
function discard(ref) {
  drop(ref);
  const rest = named(address().params).filter((one) => one !== ref);
  if (rest.length !== named(address().params).length) use(rest);
  else drawHand();
  announce(`${nameOf(ref)} removed`);
}

const file = element("file");
file.addEventListener("change", () => { void add([...file.files]); file.value = ""; });

/** Send pictures, one after the other. @param {File[]} files @param {boolean} [blur] whether faces are blurred */
async function add(files, blur = false) {
  if (!files.length) return;
  announce(`${plural(files.length, "picture")} sent`);
  document.body.classList.add("sending");
  const refused = [];
  let [faces, at] = [0, 0];
  for (; at < files.length; at++) {
    try {
      if (files[at].size > card.max_bytes) throw new Problem("too_large", "This file is too large.", `The limit is ${Math.round(card.max_bytes / 1e6)} MB.`);
      const answer = await upload(files[at], blur);
      faces += answer.faces;
      choosePicture(answer.ref);
    } catch (error) {
      if (error.code === "face_found") break;
      refused.push(h("p", { text: `${files[at].name}: ${error.message}` }), h("p", { class: "note", text: error.hint }));
    }
  }
  document.body.classList.remove("sending");
  element("blurred").textContent = faces ? `${plural(faces, "face")} blurred in what you added.` : "";
  if (at < files.length) refuseFace(files.slice(at), refused);
  else if (refused.length) dialog("The picture was not added", refused);
}

/** Ask about the first of the files that are left. @param {File[]} files @param {Node[]} refused what to report of those before */
function refuseFace(files, refused) {
  /** @param {File[]} rest @param {boolean} [blur] */
  const proceed = (rest, blur) => { closeDialog(); void add(rest, blur); };
  dialog("A face was detected", [...refused,
    h("p", { text: `${files[0].name} was discarded: nothing but the face detector has seen it.` }),
    h("p", { class: "note", text: "The detector misses small, turned and covered faces, and sometimes takes an animal for a person." }),
  ], [button("Blur faces and continue", () => proceed(files, true), { class: "primary" }), button(files.length > 1 ? "Skip" : "Cancel", () => proceed(files.slice(1)))]);
}

/** What a view shows before there is any picture. */
function welcome() {
  const { view, params } = address();
  const { list, fill } = shots("Samples");
  call("samples").then(({ rows }) => fill(rows.slice(0, 16).map((row) => shot({ row }, link(view.key, { ...common(params), of: `r${row}` })))), (error) => fault(list, error));
  return h("div", { class: "welcome" },
    h("label", { class: "zone", for: "file" }, h("b", { text: "Drop a picture here" }), h("span", { text: "or paste it, or click to choose a file. It stays on this machine, in memory, for 30 minutes." })),
    h("h2", { text: "Or start with a sample" }), list);
}

// ---- dialogs and keys

const box = element("dialog");

/** @param {string} title @param {Node[]} body @param {HTMLElement[]} [actions] */
function dialog(title, body, actions = [button("Close", closeDialog, { class: "primary" })]) {
  box.setAttribute("aria-label", title);
  box.replaceChildren(h("h2", { text: title }), ...body, h("div", { class: "actions" }, ...actions));
  if (!box.open) box.showModal();
}

const closeDialog = () => box.close();

let hasLetters = true;
try { hasLetters = localStorage.getItem("dinoforge-letters") !== "off"; } catch { /* the default, then */ }

function showHelp() {
  const keys = [
    ["/", "add a picture (also: paste it, or drop it anywhere)"], ["Arrows", "move in grids, on pictures and on the map"],
    ["Enter", "open; on a picture: choose the patch"], ["Shift + arrows", "on a picture: stretch a box"],
    ["+  and  -", "on a picture: add the box, subtract it (mouse: Shift, Alt)"], ["Delete", "take the last box or picture back"], ["Esc", "back"],
    ...offered().map((one) => [one.letter.toUpperCase(), one.name]),
  ];
  dialog("Keys", [
    h("dl", { class: "keys" }, ...keys.flatMap(([key, text]) => [h("dt", {}, h("kbd", { text: key })), h("dd", { text })])),
    toggle("Single letters open views", hasLetters, (checked) => {
      hasLetters = checked;
      try { localStorage.setItem("dinoforge-letters", checked ? "on" : "off"); } catch { /* lasts until the page is closed */ }
    }),
    h("p", { class: "note" }, "Programs can ask the same: ", h("a", { href: "api/docs", text: "the API" }), "."),
  ]);
}

function showCard() {
  const rows = [
    ["Model", card.model.name], ["Weights", card.model.trained ? "trained" : "random"], ["Fingerprint", card.model.fingerprint],
    ...(card.second ? [["Second model", card.second.name], ["Fingerprint", card.second.fingerprint]] : []),
    ["Images", count(card.num_images)], ["Dimensions", card.dim], ["Metric", card.metric], ["Index", card.kind], ["Recall@10", (card.kind === "flat" ? "1, the search is exact" : `${card.recall.toFixed(3)}, against exact search`)],
    ["Size", `${(Object.values(card.bytes).reduce((sum, one) => sum + one, 0) / 1e6).toFixed(1)} MB`],
    ["Made", card.date.slice(0, 10)], ["Sources", card.sources.join(", ")], ["Licenses", Object.keys(card.licenses).filter(Boolean).join(", ")],
    ["Faces in uploads", { refuse: "refused", blur: "blurred", off: "not looked for" }[/** @type {string} */ (card.faces)] ?? card.faces],
  ];
  dialog("Index and model", [factList(rows)]);
}

document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (isChord(event) || event.defaultPrevented || box.open) return;
  if (target.closest("input[type=number], select, dialog") || !card) return;
  if (event.key === "Escape") { history.back(); return; }
  if (event.key === "/") { event.preventDefault(); file.focus(); announce("Add picture: press Enter to choose a file, or paste one"); return; }
  if (event.key === "?") { showHelp(); return; }
  const view = hasLetters && offered().find((one) => one.letter === event.key);
  if (!view) return;
  event.preventDefault();
  location.hash = linkTo(view);
  setTimeout(() => find(document, "main h1")?.focus(), 30);
});

document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files || [])].filter((one) => one.type.startsWith("image/"));
  if (files.length) event.preventDefault();
  void add(files);
});

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  element("dropping").hidden = false;
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) element("dropping").hidden = true; });
document.addEventListener("drop", (event) => {
  element("dropping").hidden = true;
  if (!hasFiles(event)) return;
  event.preventDefault();
  void add([...event.dataTransfer.files]);
});

document.querySelector(".skip")?.addEventListener("click", (event) => { event.preventDefault(); element("main").focus(); });
for (const kind of ["input", "change"]) element("main").addEventListener(kind, mirror);
watchQueue((waits) => { element("queue").textContent = waits ? "The server is busy; waiting for a free place." : ""; });

async function start() {
  try {
    card = await loadCard();
  } catch (error) {
    fault(element("main"), error, () => { element("main").replaceChildren(); void start(); });
    return;
  }
  setCollections(card.hasOneCollection);
  drawFacts();
  watchPictures(drawHand);
  addEventListener("popstate", () => draw()); // links and Back
  if (!card.num_images) {
    element("main").replaceChildren(h("h1", { text: "This index is empty" }), h("p", { class: "lead", text: "It has no image to compare with. Make one from a folder of pictures:" }), h("pre", {}, h("code", { text: "dinoforge index FOLDER --encoder MODEL --out INDEX" })));
    return;
  }
  draw();
}

void start();
