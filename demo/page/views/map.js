// The collection as a map: what is near is alike.
import { call, rowSource } from "../api.js";
import { announce, ARROWS, button, category, clamp, controls, count, dot, exports, flag, h, has, isChord, loadImage, onResize, option, plural, segmented, statusLine } from "../dom.js";
import { categoryColor, rangeOf } from "../palettes.js";
import { follow, shot, shots } from "../results.js";
import { classTree } from "./classes.js";

const MARGIN = 26;
const STEP = .02; // of the map, per arrow key

/** Whether a place lies inside a polygon, by crossings. @param {number} x @param {number} y @param {number[][]} polygon */
function isInside(x, y, polygon) {
  let inside = false;
  for (let at = 0, before = polygon.length - 1; at < polygon.length; before = at++) {
    const [[ax, ay], [bx, by]] = [polygon[at], polygon[before]];
    if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

/** @type {Mount} */
function mount(root, ctx) {
  /** @type {{rows: number[], x: number[], y: number[], cluster: number[], names: string[]}|null} */
  let map = null;
  /** @type {number[][]} */
  let lasso = [];
  let isDrawing = false;
  let zoom = { scale: 1, x: .5, y: .5 };
  let cursor = [.5, .5];
  let hasKeys = false;
  let over = -1;
  let tool = "lasso";
  /** @type {Set<number>} */
  let chosen = new Set(); // places in the lists of the map
  /** @type {Map<number, HTMLImageElement>} */
  const images = new Map();
  const canvas = h("canvas", { tabindex: 0, role: "application", "aria-roledescription": "map",
    "aria-label": "Map of the collection. Arrow keys move the cross, Space sets a corner of the selection, Enter closes it, plus and minus zoom." });
  const tip = h("figure", { class: "tip", hidden: true });
  const status = statusLine();
  const legend = h("fieldset", { class: "clusters" }, h("legend", { text: "Clusters" }));
  const classes = ctx.network.index.num_classes > 2 ? classTree(ctx) : null;
  const results = shots("Selected images");
  root.append(controls(
    segmented("Mouse", [["lasso", "Select"], ["move", "Pan"]], tool, (value) => { tool = value; canvas.dataset.tool = value; }),
    flag(ctx, "Pictures", "pictures", true), classes && option(ctx, "Choose by", "by", [["clusters", "Clusters"], ["classes", "Classes"]], "clusters", segmented),
    button("+", () => zoomBy(1.4), { "aria-label": "Zoom in", class: "round" }), button("−", () => zoomBy(1 / 1.4), { "aria-label": "Zoom out", class: "round" }),
    button("Clear", () => ctx.go({ lasso: null, clusters: null, classes: null })), exports(["picture", "map.png", () => canvas], ["keys", "keys.txt", () => chosen.size && call("selection", { body: { rows: [...chosen].map((at) => map.rows[at]), model: ctx.model } })])),
  status, h("div", { class: "atlas" }, h("div", { class: "sea" }, canvas, tip), legend, classes?.root), results.list);
  canvas.dataset.tool = tool;

  const size = () => ({ width: canvas.clientWidth, height: canvas.clientHeight });

  /** From the map (0 to 1) to the screen. @param {number} x @param {number} y @returns {[number, number]} */
  function toScreen(x, y) {
    const { width, height } = size();
    return [MARGIN + ((x - zoom.x) * zoom.scale + .5) * (width - 2 * MARGIN), MARGIN + ((y - zoom.y) * zoom.scale + .5) * (height - 2 * MARGIN)];
  }
  /** @param {PointerEvent|WheelEvent} event */
  function fromScreen(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left - MARGIN) / (box.width - 2 * MARGIN) - .5) / zoom.scale + zoom.x,
      ((event.clientY - box.top - MARGIN) / (box.height - 2 * MARGIN) - .5) / zoom.scale + zoom.y];
  }

  let frame = 0;
  const paint = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(paintNow); };

  function paintNow() {
    if (!map || ctx.signal.aborted) return;
    const density = devicePixelRatio || 1;
    const { width, height } = size();
    [canvas.width, canvas.height] = [Math.round(width * density), Math.round(height * density)];
    const context = canvas.getContext("2d");
    context.scale(density, density);
    const style = getComputedStyle(canvas);
    context.fillStyle = style.getPropertyValue("--raised");
    context.fillRect(0, 0, width, height);
    const radius = Math.max(1.6, Math.min(5, 60 / Math.sqrt(map.rows.length)) * Math.sqrt(zoom.scale));
    for (let at = 0; at < map.rows.length; at++) {
      const [x, y] = toScreen(map.x[at], map.y[at]);
      context.globalAlpha = chosen.size && !chosen.has(at) ? .2 : .85;
      dot(context, x, y, chosen.has(at) ? radius + 1.2 : radius, categoryColor(map.cluster[at]));
    }
    context.globalAlpha = 1;
    if (has(ctx, "pictures", true)) paintImages(context, width, height);
    context.strokeStyle = style.getPropertyValue("--accent");
    context.lineWidth = 2;
    if (lasso.length) {
      context.beginPath();
      for (const [x, y] of lasso) context.lineTo(...toScreen(x, y));
      if (!isDrawing) context.closePath();
      context.stroke();
      context.globalAlpha = .1; context.fillStyle = style.getPropertyValue("--accent"); context.fill(); context.globalAlpha = 1;
    }
    if (hasKeys) {
      const [x, y] = toScreen(cursor[0], cursor[1]);
      context.beginPath(); context.moveTo(x - 10, y); context.lineTo(x + 10, y); context.moveTo(x, y - 10); context.lineTo(x, y + 10); context.stroke();
    }
  }

  /** One picture in each cell of a grid, of a dot that is there. @param {CanvasRenderingContext2D} context @param {number} width @param {number} height */
  function paintImages(context, width, height) {
    const [cell, side] = [width < 500 ? 58 : 76, width < 500 ? 36 : 46];
    const taken = new Set();
    for (let at = 0; at < map.rows.length && taken.size < 90; at++) {
      const [x, y] = toScreen(map.x[at], map.y[at]);
      if (x < 0 || y < 0 || x > width || y > height) continue;
      const key = `${Math.floor(x / cell)} ${Math.floor(y / cell)}`;
      if (taken.has(key) || (chosen.size && !chosen.has(at))) continue;
      taken.add(key);
      const row = map.rows[at];
      const image = images.get(row);
      if (!image) {
        loadImage(rowSource(row, ctx.model)).then((one) => { images.set(row, one); paint(); }, () => {});
        continue;
      }
      const crop = Math.min(image.naturalWidth, image.naturalHeight);
      const [left, top] = [clamp(x - side / 2, 2, width - side - 2), clamp(y - side / 2, 2, height - side - 2)];
      context.beginPath(); context.roundRect(left, top, side, side, 5);
      context.save();
      context.clip();
      context.drawImage(image, (image.naturalWidth - crop) / 2, (image.naturalHeight - crop) / 2, crop, crop, left, top, side, side);
      context.restore();
      context.strokeStyle = categoryColor(map.cluster[at]);
      context.lineWidth = 2;
      context.stroke();
    }
  }

  /** @param {number} factor @param {number[]} [around] */
  function zoomBy(factor, around = [zoom.x, zoom.y]) {
    const scale = clamp(zoom.scale * factor, 1, 40);
    const share = zoom.scale / scale;
    zoom = scale === 1 ? { scale: 1, x: .5, y: .5 } : { scale, x: around[0] + (zoom.x - around[0]) * share, y: around[1] + (zoom.y - around[1]) * share };
    paint();
    rest();
  }

  /** What the address calls the part that is seen. */
  const zoomed = () => (zoom.scale > 1 ? [100 * zoom.scale, 1000 * zoom.x, 1000 * zoom.y].map(Math.round).join(".") : null);

  let resting = 0;
  /** Write the zoom to the address once it rests. */
  function rest() {
    clearTimeout(resting);
    resting = window.setTimeout(() => { if (!ctx.signal.aborted) ctx.go({ zoom: zoomed() }); }, 300);
  }

  /** The dot nearest to a place, if one is near. @param {number[]} place */
  function nearest([x, y]) {
    const { width, height } = size();
    let [best, far] = [-1, 18 ** 2];
    for (let at = 0; at < map.rows.length; at++) {
      const away = ((map.x[at] - x) * zoom.scale * width) ** 2 + ((map.y[at] - y) * zoom.scale * height) ** 2;
      if (away < far) [best, far] = [at, away];
    }
    return best;
  }

  /** @param {number[]} place */
  function showTip(place) {
    const at = map ? nearest(place) : -1;
    if (at === over) return;
    over = at;
    tip.hidden = at < 0;
    if (at < 0) return;
    const [x, y] = toScreen(map.x[at], map.y[at]);
    const { width, height } = size();
    tip.style.setProperty("left", `${clamp(x + 14, 4, width - 160)}px`);
    tip.style.setProperty("top", `${clamp(y + 14, 4, height - 190)}px`);
    const text = `image ${map.rows[at]}, ${map.names[map.cluster[at]]}`;
    tip.replaceChildren(h("img", { src: rowSource(map.rows[at], ctx.model), alt: "" }), h("figcaption", { text }));
    if (hasKeys) announce(text);
  }

  const write = () => ctx.go({ zoom: zoomed(), lasso: lasso.length > 2 ? lasso.map(([x, y]) => `${Math.round(1000 * x)}.${Math.round(1000 * y)}`).join("_") : null });

  let from = [0, 0];
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !map) return;
    canvas.setPointerCapture(event.pointerId);
    hasKeys = false;
    from = fromScreen(event);
    isDrawing = true;
    if (tool === "lasso") lasso = [from];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!map) return;
    const place = fromScreen(event);
    if (!isDrawing) { showTip(place); return; }
    if (tool === "lasso") lasso.push(place);
    else { zoom.x -= place[0] - from[0]; zoom.y -= place[1] - from[1]; }
    paint();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!isDrawing) return;
    isDrawing = false;
    if (tool !== "lasso") { rest(); return; }
    if (lasso.length > 4) { thin(); write(); return; }
    lasso = [];
    const at = nearest(fromScreen(event));
    if (at >= 0) location.hash = ctx.link("collection", { row: map.rows[at] });
    else ctx.go({ lasso: null });
  });
  canvas.addEventListener("pointerleave", () => { if (!hasKeys) { over = -1; tip.hidden = true; } });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && zoom.scale === 1 && event.deltaY > 0) return; // the page scrolls
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), fromScreen(event));
  }, { passive: false });
  canvas.addEventListener("blur", () => { hasKeys = false; paint(); });
  canvas.addEventListener("keydown", (event) => {
    const move = ARROWS[event.key];
    if (isChord(event) || !map) return;
    if (move) {
      hasKeys = true;
      cursor = cursor.map((one, axis) => clamp(one + move[axis] * STEP / zoom.scale, 0, 1));
      showTip(cursor);
    } else if (event.key === " ") { if (!isDrawing) lasso = []; isDrawing = true; lasso.push([...cursor]); announce(`Corner ${lasso.length}`); }
    else if (event.key === "Enter" && isDrawing) { isDrawing = false; write(); }
    else if (event.key === "Enter" && over >= 0) location.hash = ctx.link("collection", { row: map.rows[over] });
    else if (event.key === "Escape" && isDrawing) { isDrawing = false; lasso = []; }
    else if ("+=".includes(event.key)) zoomBy(1.4, cursor);
    else if (event.key === "-") zoomBy(1 / 1.4, cursor);
    else return;
    event.preventDefault();
    event.stopPropagation();
    paint();
  });

  /** Few enough corners for an address. */
  function thin() {
    const keep = Math.max(1, Math.ceil(lasso.length / 60));
    lasso = lasso.filter((_, number) => number % keep === 0);
  }

  function select() {
    const parts = (key, separator) => (ctx.params.get(key) || "").split(separator).filter(Boolean);
    if (!isDrawing) lasso = parts("lasso", "_").map((one) => one.split(".").map((part) => Number(part) / 1000));
    if (!isDrawing) {
      const [scale, x, y] = parts("zoom", ".").map(Number);
      zoom = scale > 100 && x >= 0 && y >= 0 ? { scale: Math.min(scale / 100, 40), x: x / 1000, y: y / 1000 } : { scale: 1, x: .5, y: .5 };
    }
    const clusters = new Set(parts("clusters", ",").map(Number));
    classes?.choose(new Set(parts("classes", ",").map(Number)));
    chosen = new Set(map.rows.map((_, at) => at).filter((at) => clusters.has(map.cluster[at]) || classes?.has(at) || (lasso.length > 2 && isInside(map.x[at], map.y[at], lasso))));
    legend.querySelectorAll("input").forEach((box) => { box.checked = clusters.has(Number(box.value)); });
    const drawn = map.rows.length < ctx.network.index.num_images ? ` of the ${count(map.rows.length)} drawn` : "";
    status.textContent = chosen.size ? `${plural(chosen.size, "image")}${drawn} selected.` : "Nothing selected yet.";
    results.fill([...chosen].slice(0, 24).map((at) => shot({ row: map.rows[at], model: ctx.model, facts: { key: map.names[map.cluster[at]] } }, ctx.link("collection", { row: map.rows[at] }))));
    paint();
  }

  function drawLegend() {
    const sizes = new Map();
    for (const cluster of map.cluster) sizes.set(cluster, (sizes.get(cluster) || 0) + 1);
    const onchange = () => ctx.go({ clusters: [...legend.querySelectorAll("input:checked")].map((one) => one.value).join() });
    legend.append(...[...sizes].sort((a, b) => b[1] - a[1]).slice(0, 40).map(([cluster, number]) =>
      category({ value: String(cluster), onchange }, categoryColor(cluster), map.names[cluster], count(number))));
  }

  onResize(ctx, canvas, paint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { paint(); classes?.paint(); }, { signal: ctx.signal });
  return follow(ctx, status, async (signal) => {
    if (!map) {
      status.textContent = "Loading the map";
      const answer = await call(`map?model=${ctx.model}`, { signal });
      const span = (values) => { const [low, high] = rangeOf(values); return values.map((one) => (one - low) / Math.max(high - low, 1e-9)); };
      const repeated = (name) => answer.names.indexOf(name) !== answer.names.lastIndexOf(name);
      const names = answer.names.map((name, at) => (!name ? `cluster ${at + 1}` : repeated(name) ? `${name}, cluster ${at + 1}` : name));
      map = { ...answer, names, x: span(answer.x), y: span(answer.y) };
      drawLegend();
      canvas.after(h("p", { class: "note", text: answer.note }));
    }
    const isByClass = classes && ctx.params.get("by") === "classes";
    if (isByClass || ctx.params.has("classes")) await classes?.load(signal);
    legend.hidden = isByClass;
    if (classes) classes.root.hidden = !isByClass;
    select();
  });
}

export default {
  key: "map", name: "Map", letter: "u", pictures: 0,
  lead: "Every image as a dot; near dots look alike to the network. Draw around some of them, or choose clusters or classes, and save the list for a curation.",
  mount,
};
