// What views share: results as pictures with scores, errors, empty states, choices of looks.
import { latest, Problem, rowSource } from "./api.js";
import { announce, button, canvasOf, clamp, h, loadImage, option, plural, roving } from "./dom.js";
import { PALETTES, rampOf } from "./palettes.js";

/** @param {Hit} hit */
export const titleOf = ({ row, facts }) => String(facts?.class_name || facts?.key || `image ${row}`);

/**
 * The picture of a row, which leads somewhere.
 * @param {Hit} hit @param {string} href @param {number} [rank] @param {string} [then] what was decided
 */
export function shot(hit, href, rank, then) {
  const title = titleOf(hit);
  const name = [rank ? `${rank}:` : "", title, then].filter(Boolean).join(" ");
  const score = hit.score?.toFixed(3);
  const box = hit.box && hit.rows && hit.columns ? h("span", { class: "hit", style: {
    left: `${100 * hit.box[0] / hit.columns}%`, top: `${100 * hit.box[1] / hit.rows}%`,
    width: `${100 * (hit.box[2] - hit.box[0] + 1) / hit.columns}%`, height: `${100 * (hit.box[3] - hit.box[1] + 1) / hit.rows}%`,
  } }) : null;
  const image = h("img", { src: rowSource(hit.row, hit.model), alt: "", loading: "lazy", decoding: "async" });
  // Who scrolls fast asks for more than the server allows at once.
  image.addEventListener("error", () => setTimeout(() => { image.src += ""; }, 1500), { once: true });
  const frame = h("span", { class: "fit" }, image, h("span", { class: "layer heat" }), box);
  // The frame takes the shape of the picture, so that boxes in shares of its sides lie right.
  image.addEventListener("load", () => frame.style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight)));
  return h("li", {}, h("a", { class: "shot", href, "data-row": hit.row, "aria-label": score ? `${name}, similarity ${score}` : name },
    h("span", { class: "box" }, frame),
    h("span", { class: "caption" }, h("span", { class: "title", text: title }), score ? h("span", { class: "num", text: score }) : null),
    score ? h("span", { class: "meter", style: { "--share": String(clamp(hit.score, 0, 1)) } }) : null));
}

/** A list of shots with arrow keys. @param {string} name */
export function shots(name) {
  const list = h("ul", { class: "shots", "aria-label": name });
  const reset = roving(list, "a.shot");
  return {
    list,
    /** @param {Node[]} items */
    fill(items) { list.replaceChildren(...items); reset(); },
  };
}

/** @param {number} length */
export const skeletons = (length) => Array.from({ length }, () => h("li", { class: "skeleton", "aria-hidden": "true" }, h("span", { class: "box" })));

/** @param {HTMLElement} where @param {any} error @param {() => void} [again] */
export function fault(where, error, again) {
  const { message, hint } = error instanceof Problem ? error : { message: `This view failed: ${error.message}`, hint: "Reload the page; if it happens again, report it." };
  if (!(error instanceof Problem)) console.error(error);
  const box = h("div", { class: "fault", role: "alert" }, h("p", { text: message }), hint ? h("p", { class: "note", text: hint }) : null,
    again && error.code !== "expired" ? button("Try again", again) : null);
  where.replaceChildren(where.tagName === "UL" ? h("li", { class: "wide" }, box) : box);
}

/** @type {WeakMap<HTMLElement, () => Promise<void>>} */
const tasks = new WeakMap();

/**
 * Run a task of a view and show its error where its result would be.
 * @param {HTMLElement} where @param {() => Promise<void>} task
 */
export async function shown(where, task) {
  const mine = () => shown(where, task);
  tasks.set(where, mine); // a task that has been replaced ends while the new one runs
  where.setAttribute("aria-busy", "true");
  try {
    await task();
  } catch (error) {
    where.closest(".view")?.querySelector("[role=status]")?.replaceChildren();
    fault(where, error, mine);
  } finally {
    if (tasks.get(where) === mine) where.removeAttribute("aria-busy");
  }
}

/** What follows a changed address: a task that ends when the next one starts. @param {Context} ctx @param {HTMLElement} where @param {(signal: AbortSignal) => Promise<void>} task */
export function follow(ctx, where, task) {
  const run = latest(ctx.signal, task);
  return () => shown(where, run);
}

/** Why a view of patches cannot work. @param {any} network */
export const noPatches = (network) => (network.patch_size ? null : "This network has no patches: it is not a vision transformer.");

/** Which colors maps of numbers have. @param {Context} ctx */
export const paletteChoice = (ctx) => option(ctx, "Map", "map", PALETTES);

/** @param {Context} ctx */
export const paletteOf = (ctx) => ctx.params.get("map") || "cividis";

/** The colors of a map with the values at its ends. */
export function scale() {
  const [low, high] = [h("span", { class: "num" }), h("span", { class: "num" })];
  const bar = h("span", { class: "ramp", "aria-hidden": "true" });
  return {
    root: h("p", { class: "scale" }, low, bar, high),
    /** @param {string} palette @param {number} from @param {number} to @param {(value: number) => string} [format] */
    set(palette, from, to, format = (value) => value.toFixed(2), isCut = false) {
      bar.style.setProperty("background", rampOf(palette));
      low.textContent = `${isCut ? "≤ " : ""}${format(from)}`;
      high.textContent = format(to);
    },
  };
}

/**
 * Show what a search has found.
 * @param {Context} ctx @param {ReturnType<typeof shots>} results @param {HTMLElement} status
 * @param {{hits: Hit[], ms: number}} answer @param {(hit: Hit) => string} link where a hit leads
 * @returns {Hit[]}
 */
export function showHits(ctx, results, status, answer, link) {
  const hits = answer.hits.map((hit) => ({ ...hit, model: ctx.model }));
  results.fill(hits.map((hit, number) => shot(hit, link(hit), number + 1)));
  status.textContent = `${plural(hits.length, "result")} in ${Math.round(answer.ms)} ms`;
  if (hits.length) announce(`The most similar: ${titleOf(hits[0])}, ${hits[0].score.toFixed(3)}`);
  return hits;
}

/** Results as CSV. @param {Hit[]} hits */
export function tableOf(hits) {
  const quote = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const lines = hits.map(({ row, score, facts = {}, box }) => [row, score, quote(facts.key), quote(facts.class_name), quote(facts.source), quote(facts.license), quote(box?.join(" "))].join(","));
  return ["row,score,key,class,source,license,box", ...lines, ""].join("\n");
}

/** One picture of all results, with their boxes. @param {Hit[]} hits */
export async function sheetOf(hits) {
  const [side, gap, columns] = [160, 8, Math.min(6, hits.length)];
  const { canvas, context } = canvasOf(columns * (side + gap) + gap, Math.ceil(hits.length / columns) * (side + 26 + gap) + gap);
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.font = "12px system-ui, sans-serif";
  const images = await Promise.all(hits.map((hit) => loadImage(rowSource(hit.row, hit.model))));
  images.forEach((image, number) => {
    const { box, rows, columns: wide, score } = hits[number];
    const [x, y] = [gap + (number % columns) * (side + gap), gap + Math.floor(number / columns) * (side + 26 + gap)];
    const scaled = Math.min(side / image.naturalWidth, side / image.naturalHeight);
    const [width, height] = [image.naturalWidth * scaled, image.naturalHeight * scaled];
    const [left, top] = [x + (side - width) / 2, y + (side - height) / 2];
    context.drawImage(image, left, top, width, height);
    if (box && rows && wide) {
      context.strokeStyle = "#0f6b62";
      context.lineWidth = 3;
      context.strokeRect(left + box[0] / wide * width, top + box[1] / rows * height, (box[2] - box[0] + 1) / wide * width, (box[3] - box[1] + 1) / rows * height);
    }
    context.fillStyle = "#1d1f23";
    context.fillText(`${number + 1}  ${score?.toFixed(3) ?? ""}`, x, y + side + 16);
  });
  return canvas;
}
