// Copies of an image, how they differ, and why the curation kept which.
import { call, latest, rowSource } from "../api.js";
import { button, canvasOf, controls, exports, find, h, level, loadImage, option, plural, segmented, statusLine } from "../dom.js";
import { refOf, rowIn } from "../pictures.js";
import { shots, shot, shown, tableOf } from "../results.js";

/** @type {Mount} */
function mount(root, ctx) {
  const results = shots("Copies, the most similar first");
  const why = h("div", { class: "why" });
  const status = statusLine();
  const copies = h("div", { class: "wide" }, h("h2", { text: "Copies" }), results.list);
  const pair = h("div", { class: "compare" });
  let blinking = 0;
  /** @type {any[]} */
  let hits = [];
  root.append(controls(level(ctx, "Minimum similarity", "from", [.5, 1, .01, .95]),
    option(ctx, "Compare", "how", [["beside", "Side by side"], ["blink", "Blink"], ["difference", "Difference"]], "beside", segmented),
    exports(["list", "duplicates.csv", () => tableOf(hits)], ["picture", "pair.png", () => find(pair, "canvas")])),
  status, h("div", { class: "beside" }, h("div", { class: "wide" }, pair, why), copies));

  const still = () => { clearInterval(blinking); blinking = 0; };
  ctx.signal.addEventListener("abort", still);

  /** @param {AbortSignal} signal @param {number} a @param {number} b */
  async function compare(signal, a, b) {
    still();
    const [left, right] = await Promise.all([a, b].map((row) => loadImage(rowSource(row, ctx.model, "image"))));
    signal.throwIfAborted();
    const [mode, wide] = [ctx.params.get("how") || "beside", Math.min(720, left.naturalWidth)];
    const shift = mode === "beside" ? wide + 8 : 0;
    const high = Math.round(wide * left.naturalHeight / left.naturalWidth);
    const { canvas, context } = canvasOf(wide + shift, high, { role: "img", "aria-label": `Images ${a} and ${b}, ${mode}` });
    pair.replaceChildren(canvas);
    context.drawImage(left, 0, 0, wide, high);
    if (mode === "difference") context.globalCompositeOperation = mode;
    if (mode !== "blink") context.drawImage(right, shift, 0, wide, high);
    else {
      const caption = h("p", { class: "note num" });
      let row = b;
      const show = () => { row = row === a ? b : a; context.drawImage(row === a ? left : right, 0, 0, wide, high); caption.textContent = `Image ${row}`; };
      const turn = () => { if (blinking) still(); else blinking = window.setInterval(show, 900); stop.textContent = blinking ? "Pause" : "Resume"; };
      const stop = button("Switch", turn);
      pair.append(h("div", { class: "status-line" }, caption, stop));
      show();
      // Below three changes per second: photosensitive epilepsy.
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) stop.onclick = show;
      else turn();
    }
  }

  /** @param {string} title @param {any[]} some */
  const part = (title, some) => (some.length ? [h("h2", { text: title }), ...some.map((one) => h("p", { text: one.key ? [one.key, one.similarity, one.note].filter(Boolean).join(", ") : one }))] : []);

  const run = latest(ctx.signal, async (signal) => {
    const row = rowIn(ctx.refs()[0], ctx.model);
    still();
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
    const { policy } = answer;
    status.textContent = `${hits.length ? plural(hits.length, "image") : "No copy"} above a similarity of ${answer.threshold}. ${answer.note}`;
    why.replaceChildren(...part("Why", answer.why), ...part("Its duplicates, 8 at most", answer.group),
      ...part(`Pairs by ${policy?.encoder}, duplicates above ${policy?.threshold}, 8 at most`, answer.pairs));
    const other = Number(ctx.params.get("with") || hits[0]?.row);
    results.fill(hits.map((hit, number) => {
      const decided = { true: "kept", false: "removed" }[hit.kept];
      const item = shot(hit, ctx.link("duplicates", { of: refOf(row, ctx.model), with: hit.row }), number + 1, decided);
      if (decided) item.querySelector(".title").textContent += `, ${decided}`;
      if (hit.row === other) item.firstChild.setAttribute("aria-current", "true");
      return item;
    }));
    if (hits.length && other >= 0) await compare(signal, row, other);
    else pair.replaceChildren(h("img", { src: rowSource(row, ctx.model, "image"), alt: `Image ${row}` }));
  });
  return () => shown(why, run);
}

export default {
  key: "duplicates", name: "Duplicates", letter: "d", pictures: 1,
  lead: "Images nearly the same as this one, and what the curation decided about them.",
  mount,
};
