// Elements, announcements and exports: what every view draws with. No markup is ever parsed from text.

/**
 * Make an element. Keys that start with "on" are listeners, `class` and `text` are what they seem,
 * `style` is an object of properties (the policy of the page forbids style attributes).
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node|string|number|null|undefined|false)} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key === "text") node.textContent = value;
    else if (key === "style") for (const [name, one] of Object.entries(value)) node.style.setProperty(name, one);
    else if (key === "value" || key === "checked") /** @type {any} */ (node)[key] = value;
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false).map(
    (child) => (typeof child === "number" ? String(child) : /** @type {Node|string} */ (child))));
  return node;
}

/** @param {string} id */
export const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @param {number} value */
export const count = (value) => value.toLocaleString("en");

/** "1 image", "2 images". @param {number} number @param {string} noun */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

let pending = 0;

/** Read a sentence to users of screen readers; it is on no screen. @param {string} text */
export function announce(text) {
  clearTimeout(pending);
  // A moment later: a live region that changes with the page around it is often not read.
  pending = window.setTimeout(() => { element("announcements").textContent = text; }, 120);
}

/**
 * Arrow keys between the items of a grid, of which one is in the tab order.
 * @param {HTMLElement} container
 * @param {string} selector
 */
export function roving(container, selector) {
  const items = () => /** @type {HTMLElement[]} */ ([...container.querySelectorAll(selector)]);
  container.addEventListener("focusin", (event) => {
    for (const item of items()) item.tabIndex = item === event.target ? 0 : -1;
  });
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(/** @type {HTMLElement} */ (event.target));
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const top = all[0].getBoundingClientRect().top;
    const columns = Math.max(1, all.findIndex((item) => item.getBoundingClientRect().top > top + 4));
    const wide = all.some((item) => item.getBoundingClientRect().top > top + 4) ? columns : all.length;
    const to = {
      ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + wide, ArrowUp: at - wide, Home: 0, End: all.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))].focus();
  });
  return () => items().forEach((item, number) => { item.tabIndex = number ? -1 : 0; });
}

/** @param {string} name @param {Blob} blob */
export function save(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  announce(`${name} saved`);
}

/** @param {string} name @param {HTMLCanvasElement} canvas */
export function savePicture(name, canvas) {
  canvas.toBlob((blob) => { if (blob) save(name, blob); }, "image/png");
}

/** @param {string} name @param {unknown} value */
export function saveJson(name, value) {
  save(name, new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
}

/** @param {string} name @param {string} text */
export function saveText(name, text) {
  save(name, new Blob([text], { type: "text/plain" }));
}

/**
 * @param {string} text
 * @param {(event: Event) => void} onclick
 * @param {Record<string, any>} [attributes]
 */
export const button = (text, onclick, attributes = {}) => h("button", { type: "button", onclick, ...attributes }, text);

/**
 * What can be taken away.
 * @param {...[string, () => void]} actions what is saved, and how
 */
export const exports = (...actions) => h("div", { class: "exports", role: "group", "aria-label": "Save" }, h("span", { text: "Save", "aria-hidden": "true" }),
  ...actions.map(([what, onclick]) => button(what, onclick, { "aria-label": `Save ${what}` })));

/**
 * A slider with its name and value.
 * @param {string} name
 * @param {{min: number, max: number, step: number, value: number, format?: (value: number) => string}} range
 * @param {(value: number) => void} onchange
 */
export function slider(name, range, onchange) {
  const format = range.format || ((value) => value.toFixed(2));
  const output = h("output", { text: format(range.value) });
  const input = h("input", {
    type: "range", min: range.min, max: range.max, step: range.step, value: range.value, "aria-label": name,
    oninput: () => { output.textContent = format(Number(input.value)); onchange(Number(input.value)); },
  });
  input.setAttribute("value", String(range.value));
  return h("label", { class: "slider" }, h("span", { text: name }), input, output);
}

/** @param {string} name @param {boolean} checked @param {(checked: boolean) => void} onchange */
export function toggle(name, checked, onchange) {
  const input = h("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) });
  return h("label", { class: "toggle" }, input, h("span", { text: name }));
}

/**
 * @param {string} name
 * @param {[string, string][]} options value and text of each
 * @param {string} value
 * @param {(value: string) => void} onchange
 */
export function choice(name, options, value, onchange) {
  const select = h("select", { onchange: () => onchange(select.value) },
    ...options.map(([one, text]) => h("option", { value: one, text })));
  select.value = value;
  return h("label", { class: "choice" }, h("span", { text: name }), select);
}

/**
 * Radio buttons that look like one control.
 * @param {string} name
 * @param {[string, string][]} options
 * @param {string} value
 * @param {(value: string) => void} onchange
 */
export function segmented(name, options, value, onchange) {
  const group = `g${Math.random().toString(36).slice(2)}`;
  return h("fieldset", { class: "segmented" }, h("legend", { text: name }), ...options.map(([one, text]) => {
    const input = h("input", { type: "radio", name: group, value: one, checked: one === value, onchange: () => onchange(one) });
    return h("label", {}, input, h("span", { text }));
  }));
}

/** @param {string} source @returns {Promise<HTMLImageElement>} */
export function loadImage(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("the picture does not load"));
    image.src = source;
  });
}
