// Where the class token looks, head by head.
import { call } from "../api.js";
import { Board } from "../board.js";
import { announce, canvasOf, controls, exports, h, level } from "../dom.js";
import { colorOf, patchCanvas } from "../palettes.js";
import { withPictures } from "../pictures.js";
import { follow, paletteChoice, paletteOf } from "../results.js";

/** The largest values up to a share of the sum. @param {number[]} values @param {number} mass */
function kept(values, mass) {
  const order = values.map((_, index) => index).sort((a, b) => values[b] - values[a]);
  const sum = values.reduce((total, value) => total + value, 0) || 1;
  const mask = new Array(values.length).fill(false);
  let gathered = 0;
  for (const index of order) {
    if (gathered >= mass * sum) break;
    mask[index] = true;
    gathered += values[index];
  }
  return mask;
}

/** @type {Mount} */
function mount(root, ctx) {
  let answer = null;
  let asked = "";
  /** @type {Picture} */
  let picture;
  /** @type {{name: string, board: Board, caption: HTMLElement, values: number[], mass?: number}[]} */
  let maps = [];
  const list = h("ul", { class: "heads", "aria-label": "Attention maps" });
  root.append(controls(
    level(ctx, "Keep", "mass", [0, 1, .01, 1], (value) => (value >= 1 ? "all" : `${Math.round(100 * value)} %`)), paletteChoice(ctx), exports(["picture", "attention.png", drawAll])), list);

  function paint() {
    const share = ctx.number("mass", 1);
    const palette = paletteOf(ctx);
    for (const { board, values, caption, mass } of maps) {
      const high = Math.max(...values) || 1;
      const mask = share < 1 ? kept(values, share) : null;
      board.layer(patchCanvas(answer.rows, answer.columns, (index) => (mask
        ? (mask[index] ? [...colorOf(palette, .35 + .65 * values[index] / high), 150] : [12, 14, 18, 190])
        : [...colorOf(palette, Math.sqrt(values[index] / high)), 225])), Boolean(mask));
      caption.textContent = [mass && `${Math.round(100 * mass)} % on patches`, mask && `${mask.filter(Boolean).length} of ${mask.length} patches kept`].filter(Boolean).join(", ");
    }
  }

  async function drawAll() {
    const canvases = await Promise.all(maps.map(({ board }) => board.picture()));
    if (!canvases.length) return null;
    const [wide, high] = [canvases[0].width, canvases[0].height];
    const columns = Math.min(4, canvases.length);
    const sheet = canvasOf(columns * (wide + 8) - 8, Math.ceil(canvases.length / columns) * (high + 8) - 8);
    canvases.forEach((one, number) => sheet.context.drawImage(one, (number % columns) * (wide + 8), Math.floor(number / columns) * (high + 8)));
    return sheet.canvas;
  }

  return follow(ctx, list, async (signal) => {
    const [ref] = ctx.refs();
    if (asked !== ref) {
      await withPictures([ref], ctx.model, signal, async ([one]) => {
        picture = one;
        answer = await call(`attention/${picture.id}?model=${ctx.model}`, { signal });
      });
      const heads = answer.values;
      const over = (join) => heads[0].map((_, index) => join(heads.map((values) => values[index])));
      const mean = over((values) => values.reduce((sum, value) => sum + value, 0) / values.length);
      /** @type {[string, number[]][]} */
      const named = [["Mean", mean], ["Maximum", over((values) => Math.max(...values))], ...heads.map((values, number) => /** @type {[string, number[]]} */ ([`Head ${number + 1}`, values]))];
      maps = named.map(([name, values], at) => ({ name, values, mass: answer.mass[at - 2], caption: h("span", { class: "num" }),
        board: new Board({ ...picture, rows: answer.rows, columns: answer.columns, name: `${name}: map of attention` }) }));
      list.replaceChildren(h("li", {}, h("figure", {}, new Board(picture).root, h("figcaption", {}, h("b", { text: "Picture" })))),
        ...maps.map(({ name, board, caption }) => h("li", {}, h("figure", {}, board.root, h("figcaption", {}, h("b", { text: name }), " ", caption)))));
      asked = ref;
      announce(`${heads.length} heads`);
    }
    paint();
  });
}

export default {
  key: "attention", name: "Attention", letter: "a", pictures: 1,
  lead: "What the class token attends to in the last block, one map per head, and how much of that is on patches. The threshold keeps the patches that hold this share of the attention, as in the figures of DINO.",
  mount,
  missing: (network) => (network.num_heads ? null : "This network has no attention: it is not a vision transformer."),
};
