// Segmentation and depth by linear heads that were trained on this backbone.
import { call } from "../api.js";
import { Board } from "../board.js";
import { category, choice, controls, exports, h, statusLine } from "../dom.js";
import { categoryColor, channels, colorOf, patchCanvas } from "../palettes.js";
import { nameOf, withPictures } from "../pictures.js";
import { follow, paletteChoice, paletteOf, scale } from "../results.js";

/** @type {Mount} */
function mount(root, ctx) {
  const heads = /** @type {string[]} */ (ctx.network.heads);
  /** @type {Board|null} */
  let board = null;
  let answer = null;
  let asked = "";
  const hidden = () => new Set((ctx.params.get("hide") || "").split(",").filter(Boolean).map(Number));
  const place = h("div");
  const value = statusLine();
  const legend = h("ul", { class: "classes" });
  const ends = scale();
  root.append(controls(choice("Head", heads.map((one) => [one, one]), ctx.params.get("head") || heads[0], (head) => ctx.go({ head, hide: null })), paletteChoice(ctx),
    exports(["picture", "head.png", () => board?.picture()])),
  h("div", { class: "beside" }, h("div", { class: "query large" }, place, value), h("div", {}, ends.root, legend)));

  function paint() {
    const { rows, columns, values, low = 0, high = 1 } = answer;
    const away = hidden();
    legend.querySelectorAll("input").forEach((box) => { box.checked = !away.has(Number(box.value)); });
    ends.set(paletteOf(ctx), low, high, (one) => `${one.toFixed(1)} ${answer.unit ?? ""}`);
    board?.layer(patchCanvas(rows, columns, (index) => {
      if (answer.kind === "classes") return [...channels(categoryColor(values[index])), away.has(values[index]) ? 0 : 190];
      return [...colorOf(paletteOf(ctx), (values[index] - low) / Math.max(high - low, 1e-9)), 235];
    }), answer.kind === "classes");
  }

  /** @param {number} index */
  const read = (index) => (answer.kind === "classes" ? answer.names[answer.values[index]] : `${answer.values[index].toFixed(2)} ${answer.unit ?? ""}`);

  return follow(ctx, legend, async (signal) => {
    const [ref] = ctx.refs();
    const head = ctx.params.get("head") || heads[0];
    if (asked !== `${ref} ${head}`) await withPictures([ref], ctx.model, signal, async ([picture]) => {
      answer = await call("dense", { signal, body: { id: picture.id, head, model: ctx.model } });
      const { rows, columns, values, kind } = answer;
      board = new Board({ ...picture, rows, columns, name: `${kind} of ${nameOf(picture.ref)}`,
        onhover: (column, row) => { value.textContent = read(row * columns + column); } });
      place.replaceChildren(board.root);
      ends.root.hidden = kind === "classes";
      const sizes = new Map();
      if (kind === "classes") for (const one of values) sizes.set(one, (sizes.get(one) || 0) + 1);
      legend.replaceChildren(...[...sizes].sort((a, b) => b[1] - a[1]).map(([one, size]) => {
        const onchange = (event) => ctx.go({ hide: [...hidden(), one].filter((other) => other !== one || !event.target.checked).join() });
        return h("li", {}, category({ value: one, onchange }, categoryColor(one), answer.names[one], `${Math.round(100 * size / values.length)} %`));
      }));
      asked = `${ref} ${head}`;
    });
    paint();
  });
}

export default {
  key: "dense", name: "Heads", letter: "h", pictures: 1,
  lead: "What linear heads, trained on this backbone, read from the features of each patch: classes or depth.",
  missing: (network) => (network.heads?.length ? null : network.heads ? "No head was given for this backbone: start the demo with --head FILE, from a segmentation or depth evaluation." : "Heads belong to model A."),
  mount,
};
