// Elements, announcements and exports: what every view draws with. No markup is ever parsed from text.
import { call, Problem } from "./api.js";

/**
 * Make an element. Keys that start with "on" are listeners; `style` is an object of properties
 * (the policy of the page forbids style attributes).
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node|string|number|null|undefined|false)} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if ((value ?? false) === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key === "text") node.textContent = value;
    else if (key === "style") for (const [name, one] of Object.entries(value)) node.style.setProperty(name, one);
    else if (key === "value" || key === "checked") /** @type {any} */ (node)[key] = value;
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(.../** @type {string[]} */ (children.filter((child) => (child ?? false) !== false)));
  return node;
}

/** @param {number} value @param {number} low @param {number} high */
export const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

/** @param {ParentNode} root @param {string} selector @returns {HTMLElement|null} */
export const find = (root, selector) => root.querySelector(selector);

/** A canvas to draw on. @param {number} width @param {number} height @param {Record<string, any>} [attributes] */
export function canvasOf(width, height, attributes) {
  const canvas = h("canvas", attributes);
  [canvas.width, canvas.height] = [width, height];
  return { canvas, context: canvas.getContext("2d") };
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {number} radius @param {string} color */
export function dot(context, x, y, radius, color) {
  context.fillStyle = color;
  context.beginPath(); context.arc(x, y, radius, 0, 7); context.fill();
}

/** Steps to the right and down. @type {Record<string, number[]>} */
export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Whether a key belongs to the browser. @param {KeyboardEvent} event */
export const isChord = (event) => event.altKey || event.ctrlKey || event.metaKey;

/** @param {string} id @returns {any} */
export const element = (id) => document.getElementById(id);

/** @param {number} value */
export const count = (value) => value.toLocaleString("en");

/** @param {number} number @param {string} noun */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

let pending = 0;

/** Read a sentence to users of screen readers; it is on no screen. @param {string} text */
export function announce(text) {
  clearTimeout(pending);
  // A moment later: a live region that changes with the page around it is often not read.
  pending = window.setTimeout(() => { element("announcements").textContent = text; }, 120);
}

/** Arrow keys between the items of a grid, of which one is in the tab order. @param {HTMLElement} container @param {string} selector */
export function roving(container, selector) {
  const items = () => /** @type {HTMLElement[]} */ ([...container.querySelectorAll(selector)]);
  container.addEventListener("focusin", (event) => {
    for (const item of items()) item.tabIndex = item === event.target ? 0 : -1;
  });
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(/** @type {HTMLElement} */ (event.target));
    if (at < 0 || isChord(event)) return;
    const top = all[0].getBoundingClientRect().top;
    const second = all.findIndex((item) => item.getBoundingClientRect().top > top + 4); // row
    const wide = second < 0 ? all.length : second;
    const to = {
      ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + wide, ArrowUp: at - wide, Home: 0, End: all.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[clamp(to, 0, all.length - 1)].focus();
  });
  return () => items().forEach((item, number) => { item.tabIndex = number ? -1 : 0; });
}

/** Save a canvas as PNG, a text, or anything else as JSON. @param {string} file @param {any} made nothing: there is none yet */
async function save(file, made) {
  const blob = made?.toBlob ? await new Promise((resolve) => made.toBlob(resolve)) : made && new Blob([typeof made === "string" ? made : JSON.stringify(made, null, 1)]);
  if (!blob) throw new Problem("nothing", "There is nothing to save yet");
  const link = h("a", { href: URL.createObjectURL(blob), download: file });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  announce(`${file} saved`);
}

/** @param {string} text @param {(event: Event) => void} onclick @param {Record<string, any>} [attributes] */
export const button = (text, onclick, attributes = {}) => h("button", { type: "button", onclick, ...attributes }, text);

/** A line that is read out when it changes. */
export const statusLine = () => h("p", { class: "note", role: "status" });

/** @param {...Node} all */
export const controls = (...all) => h("div", { class: "controls" }, ...all);

/** What is known of something. @param {any[][]} rows names and values @param {(value: any) => Node|string} [show] */
export const factList = (rows, show = String) => h("dl", { class: "facts" }, ...rows.filter(([, value]) => (value ?? "") !== "").flatMap(([name, value]) => [h("dt", { text: name }), h("dd", {}, show(value))]));

/** What can be taken away. @param {...[string, string, () => any]} all what, its file, and what makes it for `save` */
export function exports(...all) {
  const failed = h("span", { role: "alert" });
  const group = h("div", { class: "exports", role: "group", "aria-label": "Save" }, h("span", { text: "Save", "aria-hidden": "true" }),
    ...all.map(([what, file, make]) => button(what, async () => {
      failed.remove();
      try { await save(file, await make()); } catch (error) { failed.textContent = `${error.message} ${error.hint ?? ""}`; group.append(failed); }
    }, { "aria-label": `Save ${what}` })));
  return group;
}

/** @param {Context} ctx @param {Element} node @param {() => void} listener */
export function onResize(ctx, node, listener) {
  const sizes = new ResizeObserver(listener);
  sizes.observe(node);
  ctx.signal.addEventListener("abort", () => sizes.disconnect());
}

/** A category. @param {Record<string, any>} box attributes @param {string} background @param {string} text @param {string} number */
export const category = (box, background, text, number) => h("label", { class: "toggle" }, h("input", { type: "checkbox", ...box }),
  h("span", { class: "swatch", style: { background } }), h("span", { text }), h("span", { class: "num note", text: number }));

/** @param {string} name @param {boolean} checked @param {(checked: boolean) => void} onchange */
export function toggle(name, checked, onchange) {
  const input = h("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) });
  return h("label", { class: "toggle" }, input, h("span", { text: name }));
}

/** @param {string} name @param {[string, string][]} options value and text of each @param {string} value @param {(value: string) => void} onchange */
export function choice(name, options, value, onchange) {
  const select = h("select", { onchange: () => onchange(select.value) },
    ...options.map(([one, text]) => h("option", { value: one, text })));
  select.value = value;
  return h("label", { class: "choice" }, h("span", { text: name }), select);
}

/** Radio buttons that look like one control. @type {typeof choice} */
export function segmented(name, options, value, onchange) {
  const group = `g${Math.random().toString(36).slice(2)}`;
  return h("fieldset", { class: "segmented" }, h("legend", { text: name }), ...options.map(([one, text]) => {
    const input = h("input", { type: "radio", name: group, value: one, checked: one === value, onchange: () => onchange(one) });
    return h("label", {}, input, h("span", { text }));
  }));
}

/** Whether an address has a flag. @param {Context} ctx @param {string} key @param {boolean} [preset] */
export const has = (ctx, key, preset = false) => (ctx.params.has(key) ? ctx.params.get(key) !== "0" : preset);

// Controls whose value is in the address, unless it is the preset.

/** @param {Context} ctx @param {string} name @param {string} key @param {boolean} [preset] */
export const flag = (ctx, name, key, preset = false) => toggle(name, has(ctx, key, preset), (on) => ctx.go({ [key]: on === preset ? null : Number(on) }));

/** A slider. @param {Context} ctx @param {string} name @param {string} key @param {number[]} range lowest, highest, step, preset @param {(value: number) => string} format */
export function level(ctx, name, key, [min, max, step, preset], format = (value) => value.toFixed(2)) {
  const value = ctx.number(key, preset);
  const output = h("output", { text: format(value) });
  const input = h("input", { type: "range", min, max, step, value, "aria-label": name, oninput: () => {
    const next = Number(input.value);
    output.textContent = format(next);
    ctx.go({ [key]: next === preset ? null : next });
  } });
  input.setAttribute("value", String(value));
  return h("label", { class: "slider" }, h("span", { text: name }), input, output);
}

/** @param {Context} ctx @param {string} name @param {string} key @param {[string, string][]} options @param {string} [preset] @param {typeof choice} [make] */
export const option = (ctx, name, key, options, preset = options[0][0], make = choice) => make(name, options, ctx.params.get(key) || preset, (value) => ctx.go({ [key]: value === preset ? null : value }));

/** @param {Context} ctx */
export const numResults = (ctx, ...numbers) => option(ctx, "Results", "k", numbers.map((one) => [one, one]), "24");

/** A picture of the server; if there is none, its answer is thrown. @param {string} source @returns {Promise<HTMLImageElement>} */
export async function loadImage(source) {
  const image = new Image();
  const show = () => { image.src = source; return image.decode(); };
  await show().catch(async () => { await call(source.slice(4)); await show(); });
  return image;
}

/** A picture at its own size, to draw on. @param {string} source */
export async function pictureOf(source) {
  const image = await loadImage(source);
  const drawn = canvasOf(image.naturalWidth, image.naturalHeight);
  drawn.context.drawImage(image, 0, 0);
  return drawn;
}
