// A picture with its patches: boxes by mouse, finger or keyboard, heat maps and marks above it.
import { announce, ARROWS, clamp, h, pictureOf } from "./dom.js";
import { colorOf, patchCanvas, rangeOf } from "./palettes.js";
import { nameOf, sourceOf } from "./pictures.js";

/** @param {string} tag @param {Record<string, any>} attributes */
function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  return node;
}

/**
 * Boxes in addresses are in ten-thousandths of the sides, so they mean the same for every model.
 * @param {string|null} text @param {number} rows @param {number} columns
 * @returns {Box[]}
 */
export function readBoxes(text, rows, columns) {
  return (text || "").split("_").filter(Boolean).map((one) => {
    const [left, top, right, bottom] = one.split(".").map(Number);
    const first = (at, size) => clamp(Math.round(at * size / 10000), 0, size - 1);
    const [x, y] = [first(left, columns), first(top, rows)];
    const last = (at, size, from) => clamp(Math.round(at * size / 10000) - 1, from, size - 1);
    return /** @type {Box} */ ([x, y, last(right, columns, x), last(bottom, rows, y)]);
  }).filter((box) => box.every(Number.isFinite));
}

/** @param {Box[]} boxes @param {number} rows @param {number} columns */
export function writeBoxes(boxes, rows, columns) {
  const part = (at, size) => Math.round(10000 * at / size);
  return boxes.map(([x, y, right, bottom]) =>
    [part(x, columns), part(y, rows), part(right + 1, columns), part(bottom + 1, rows)].join(".")).join("_");
}

/** @param {Box} box */
function describe([x, y, right, bottom]) {
  return x === right && y === bottom ? `row ${y + 1}, column ${x + 1}` : `rows ${y + 1} to ${bottom + 1}, columns ${x + 1} to ${right + 1}`;
}

export class Board {
  /**
   * @param {Picture & {name?: string,
   *   onselect?: (box: Box, mode: Mode) => void, onhover?: (column: number, row: number) => void, onleave?: () => void,
   *   onundo?: () => void, mode?: () => any, points?: boolean}} options
   */
  constructor(options) {
    this.options = options;
    this.at = [Math.floor(options.columns / 2), Math.floor(options.rows / 2)];
    this.anchor = /** @type {number[]|null} */ (null);
    this.hasKeys = false;
    this.image = h("img", { src: sourceOf(options), alt: "", draggable: "false" });
    this.heatLayer = h("div", { class: "layer" });
    this.marksLayer = svg("svg", { viewBox: `0 0 ${options.columns} ${options.rows}`, preserveAspectRatio: "none", "aria-hidden": true, class: "layer" });
    this.live = Boolean(options.onselect || options.onhover);
    this.root = h("div", {
      class: this.live ? "board live" : "board", style: { "aspect-ratio": `${options.width} / ${options.height}`, "--ratio": String(options.width / options.height) },
      ...(this.live ? { role: "application", tabindex: 0, "aria-roledescription": "picture of patches" } : { role: "img" }),
      "aria-label": (options.name ?? nameOf(options.ref)) + (this.live ? `, ${options.rows} rows and ${options.columns} columns of patches` : ""),
    }, this.image, this.heatLayer, this.marksLayer);
    /** @type {Mark[]} */
    this.marks = [];
    if (this.live) this.listen();
  }

  listen() {
    const { root } = this;
    /** @type {{from: number[], mode: Mode}|null} */
    let drag = null;
    root.addEventListener("pointerdown", (event) => {
      if (event.button || !this.options.onselect) return;
      drag = { from: this.patchAt(event), mode: event.shiftKey ? "add" : event.altKey || event.ctrlKey ? "sub" : this.mode() };
      root.setPointerCapture(event.pointerId);
      this.hasKeys = false;
      this.draw(this.boxBetween(drag.from, drag.from), drag.mode);
    });
    root.addEventListener("pointermove", (event) => {
      const place = this.patchAt(event);
      if (drag) {
        if (this.options.points) drag.from = place;
        this.draw(this.boxBetween(drag.from, place), drag.mode);
      } else if (place.join() !== this.at.join() || !this.isOver) {
        this.isOver = true;
        this.at = place;
        this.options.onhover?.(place[0], place[1]);
      }
    });
    root.addEventListener("pointerup", (event) => {
      if (!drag) return;
      const box = this.boxBetween(drag.from, this.patchAt(event));
      const { mode } = drag;
      drag = null;
      this.at = [box[2], box[3]];
      this.draw(null);
      this.options.onselect?.(box, mode);
    });
    root.addEventListener("pointercancel", () => { drag = null; this.draw(null); });
    root.addEventListener("pointerleave", () => { this.isOver = false; if (!drag) this.options.onleave?.(); });
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("blur", () => { this.hasKeys = false; this.anchor = null; this.draw(null); this.options.onleave?.(); });
    root.addEventListener("focus", () => { if (root.matches(":focus-visible")) { this.hasKeys = true; this.showCursor(); } });
  }

  /** @returns {Mode} */
  mode() { return this.options.mode?.() ?? "set"; }

  /** @param {PointerEvent} event */
  patchAt(event) {
    const box = this.root.getBoundingClientRect();
    const along = (at, size, number) => clamp(Math.floor(at / size * number), 0, number - 1);
    return [along(event.clientX - box.left, box.width, this.options.columns), along(event.clientY - box.top, box.height, this.options.rows)];
  }

  /** @param {number[]} a @param {number[]} b @returns {Box} */
  boxBetween(a, b) {
    return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  }

  cursorBox() { return this.boxBetween(this.anchor || this.at, this.at); }

  showCursor() {
    this.draw(this.cursorBox(), this.mode());
    announce(describe(this.cursorBox()));
    if (!this.anchor) this.options.onhover?.(this.at[0], this.at[1]);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { rows, columns } = this.options;
    const move = { ...ARROWS, Home: [-columns, 0], End: [columns, 0] }[event.key];
    if (event.metaKey || (event.altKey && !["Enter", " "].includes(event.key))) return;
    if (move) {
      if (event.shiftKey && !this.options.points) this.anchor ??= [...this.at];
      else this.anchor = null;
      this.at = [clamp(this.at[0] + move[0], 0, columns - 1), clamp(this.at[1] + move[1], 0, rows - 1)];
      this.hasKeys = true;
      this.showCursor();
    } else if (event.key === "Escape" && this.anchor) {
      this.anchor = null;
      this.showCursor();
    } else if (["Delete", "Backspace"].includes(event.key) && this.options.onundo) {
      this.options.onundo();
    } else if (["Enter", " ", "+", "=", "-"].includes(event.key) && this.options.onselect) {
      const mode = event.key === "-" || event.altKey || event.ctrlKey ? "sub" : "+=".includes(event.key) || event.shiftKey ? "add" : this.mode();
      const box = this.cursorBox();
      this.anchor = null;
      this.options.onselect(box, mode);
      this.draw(this.cursorBox(), this.mode());
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Draw all marks, and one that is being made. @param {Box|null} [drawn] @param {Mode} [mode] */
  draw(drawn = null, mode = "set") {
    const cursor = drawn || (this.hasKeys ? this.cursorBox() : null);
    const all = cursor ? [...this.marks, { box: cursor, kind: `cursor ${mode}` }] : this.marks;
    this.marksLayer.replaceChildren(...all.flatMap(({ box, kind }) => ["under", "over"].map((layer) => {
      const [x, y, right, bottom] = box;
      return svg("rect", { x, y, width: right - x + 1, height: bottom - y + 1, class: `mark ${layer} ${kind}` });
    })));
  }

  /** @param {Box[]} add @param {Box[]} [sub] */
  setMarks(add, sub = []) {
    this.marks = [...add.map((box) => ({ box, kind: "add" })), ...sub.map((box) => ({ box, kind: "sub" }))];
    this.draw();
  }

  /**
   * @param {{rows: number, columns: number, values: ArrayLike<number>}|null} map
   * @param {{palette: string, low?: number, high?: number}} [look]
   */
  heat(map, look = { palette: "cividis" }) {
    this.map = map;
    if (!map) { this.layer(null); return; }
    const [low, high] = rangeOf(map.values);
    const [from, to] = [look.low ?? low, look.high ?? high];
    this.layer(patchCanvas(map.rows, map.columns, (index) => {
      const share = clamp((map.values[index] - from) / Math.max(to - from, 1e-9), 0, 1);
      return [...colorOf(look.palette, share), Math.round(255 * (.42 + .4 * share))];
    }));
  }

  /** @param {HTMLCanvasElement|null} canvas @param {boolean} [sharp] */
  layer(canvas, sharp = false) {
    this.heatLayer.replaceChildren(...(canvas ? [canvas] : []));
    this.heatLayer.classList.toggle("sharp", sharp);
    if (canvas) canvas.setAttribute("aria-hidden", "true");
  }

  /** The picture with all that is above it, at its own size. @returns {Promise<HTMLCanvasElement>} */
  async picture() {
    const { canvas, context } = await pictureOf(sourceOf(this.options));
    const heat = this.heatLayer.firstChild;
    context.imageSmoothingEnabled = !this.heatLayer.classList.contains("sharp");
    if (heat) context.drawImage(/** @type {HTMLCanvasElement} */ (heat), 0, 0, canvas.width, canvas.height);
    const [wide, high] = [canvas.width / this.options.columns, canvas.height / this.options.rows];
    for (const { box: [x, y, right, bottom], kind } of this.marks) {
      for (const [color, width] of /** @type {[string, number][]} */ ([["#fff", 5], [kind.includes("sub") ? "#d55e00" : "#0f6b62", 3]])) {
        context.strokeStyle = color;
        context.lineWidth = width;
        context.strokeRect(x * wide, y * high, (right - x + 1) * wide, (bottom - y + 1) * high);
      }
    }
    return canvas;
  }
}
