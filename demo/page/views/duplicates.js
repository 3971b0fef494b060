// Copies of an image, how they differ, and why the curation kept which.
import { call, latest, rowSource } from "../api.js";
import { button, canvasOf, controls, exports, find, h, level, loadImage, option, plural, segmented, statusLine } from "../dom.js";
import { refOf, rowIn } from "../pictures.js";
import { shots, shot, shown, tableOf } from "../results.js";

/** @type {import("../main.js").View["mount"]} */
function mount(root, ctx) {
  const results = shots("Copies, the most similar first");
  const why = h("div", { class: "why" });
  const status = statusLine();
  const copies = h("div", { class: "wide" }, h("h2", { text: "Copies" }), results.list);
  const pair = h("div", { class: "compare" });
  let blinking = 0;
  /** @type {any[]} */
  let hits = [];
  const how = () => ctx.params.get("how") || "beside";
  root.append(controls(level(ctx, "Similarity from", "from", [.5, 1, .01, .95]),
    option(ctx, "Compare", "how", [["beside", "Side by side"], ["blink", "Blink"], ["difference", "Difference"]], "beside", segmented),
    exports(["list", "duplicates.csv", () => tableOf(hits)], ["picture", "pair.png", () => find(pair, "canvas")])),
  status, h("div", { class: "beside" }, h("div", { class: "wide" }, pair, why), copies));

  ctx.signal.addEventListener("abort", () => clearInterval(blinking));

  /** @param {AbortSignal} signal @param {number} a @param {number} b */
  async function compare(signal, a, b) {
    clearInterval(blinking);
    const [left, right] = await Promise.all([a, b].map((row) => loadImage(rowSource(row, ctx.model, "image"))));
    signal.throwIfAborted();
    const [wide, high] = [Math.min(720, left.naturalWidth), Math.round(Math.min(720, left.naturalWidth) * left.naturalHeight / left.naturalWidth)];
    const gap = 8;
    const { canvas, context } = canvasOf(how() === "beside" ? 2 * wide + gap : wide, high, { role: "img", "aria-label": `Images ${a} and ${b}, ${how()}` });
    pair.replaceChildren(canvas);
    if (how() === "beside") {
      context.drawImage(left, 0, 0, wide, high);
      context.drawImage(right, wide + gap, 0, wide, high);
    } else if (how() === "blink") {
      let isLeft = true;
      const show = () => { context.drawImage(isLeft ? left : right, 0, 0, wide, high); caption.textContent = `Image ${isLeft ? a : b}`; isLeft = !isLeft; };
      const caption = h("p", { class: "note num" });
      const stop = button("Pause", () => { if (blinking) { clearInterval(blinking); blinking = 0; stop.textContent = "Go on"; } else { blinking = window.setInterval(show, 900); stop.textContent = "Pause"; } });
      pair.append(h("div", { class: "status-line" }, caption, stop));
      show();
      // Below three changes per second, the limit for people with photosensitive epilepsy.
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) blinking = window.setInterval(show, 900);
      else { stop.textContent = "Change"; stop.onclick = show; }
    } else {
      context.drawImage(left, 0, 0, wide, high);
      context.globalCompositeOperation = "difference";
      context.drawImage(right, 0, 0, wide, high);
    }
  }

  const run = latest(ctx.signal, async (signal) => {
    const row = rowIn(ctx.refs()[0], ctx.model);
    clearInterval(blinking);
    copies.hidden = true;
    if (row === null) {
      status.textContent = "";
      hits = [];
      pair.replaceChildren();
      why.replaceChildren(h("p", { class: "empty", text: "This picture is not in the collection. Open Similar images: a copy of yours has a similarity near 1." }));
      return;
    }
    const answer = await call(`duplicates/${row}?model=${ctx.model}&threshold=${ctx.number("from", .95)}`, { signal });
    hits = answer.copies.map((hit) => ({ ...hit, model: ctx.model }));
    copies.hidden = !hits.length;
    status.textContent = hits.length ? `${plural(hits.length, "image")} above a similarity of ${answer.threshold}` : `No copy above a similarity of ${answer.threshold}.`;
    why.replaceChildren(...(answer.why.length ? [h("h2", { text: "Why" }), ...answer.why.map((text) => h("p", { text }))] : []));
    results.fill(hits.map((hit, number) => {
      const decided = { true: "kept", false: "removed" }[hit.kept];
      const item = shot(hit, ctx.link("duplicates", { of: refOf(row, ctx.model), with: hit.row }), number + 1, decided);
      if (decided) item.querySelector(".title").textContent += `, ${decided}`;
      if (String(hit.row) === (ctx.params.get("with") || String(hits[0].row))) item.firstChild.setAttribute("aria-current", "true");
      return item;
    }));
    const other = Number(ctx.params.get("with") ?? hits[0]?.row);
    if (hits.length && Number.isFinite(other)) await compare(signal, row, other);
    else pair.replaceChildren(h("img", { src: rowSource(row, ctx.model, "image"), alt: `Image ${row}` }));
  });
  return () => shown(why, run);
}

export default {
  key: "duplicates", name: "Duplicates", letter: "d", pictures: 1,
  lead: "Images of the collection that are nearly the same as this one, and what the curation decided about them.",
  mount,
};
