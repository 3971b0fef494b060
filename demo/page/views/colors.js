// Principal components of the features of some pictures as colors, the same for all of them.
import { call } from "../api.js";
import { Board } from "../board.js";
import { canvasOf, controls, exports, h, level, option, plural, segmented, statusLine } from "../dom.js";
import { colorOf, patchCanvas } from "../palettes.js";
import { nameOf, withPictures } from "../pictures.js";
import { follow, noPatches, paletteChoice, paletteOf } from "../results.js";

/** @type {Mount} */
function mount(root, ctx) {
  const list = h("ul", { class: "pairs", "aria-label": "Pictures and their colors" });
  /** @type {Board[][]} */
  let [plain, boards] = [[], []];
  let answer = null;
  let asked = "";
  const status = statusLine();
  root.append(controls(
    level(ctx, "Foreground above", "threshold", [0, 1, .05, .5]),
    option(ctx, "Show", "show", [["all", "Colors"], ["0", "1st"], ["1", "2nd"], ["2", "3rd"]], "all", segmented),
    option(ctx, "As", "as", [["smooth", "Smooth"], ["patches", "Patches"]], "smooth", segmented),
    paletteChoice(ctx), exports(["picture", "colors.png", drawAll])), status, list);

  function paint() {
    const show = ctx.params.get("show") || "all";
    const palette = paletteOf(ctx);
    answer.images.forEach(({ rows, columns, rgb }, number) => {
      boards[number].layer(patchCanvas(rows, columns, (index) => {
        const color = rgb.slice(3 * index, 3 * index + 3);
        if (!color.some(Boolean)) return [18, 20, 24, 255]; // the background
        return show === "all" ? [color[0], color[1], color[2], 255] : [...colorOf(palette, color[Number(show)] / 255), 255];
      }), ctx.params.get("as") === "patches");
    });
  }

  async function drawAll() {
    const [pictures, canvases] = await Promise.all([plain, boards].map((all) => Promise.all(all.map((board) => board.picture()))));
    const high = Math.max(...canvases.map((one) => one.height));
    const { canvas, context } = canvasOf(canvases.reduce((sum, one) => sum + one.width + 8, -8), 2 * high + 8);
    let left = 0;
    canvases.forEach((one, number) => {
      context.drawImage(pictures[number], left, 0);
      context.drawImage(one, left, high + 8);
      left += one.width + 8;
    });
    return canvas;
  }

  return follow(ctx, list, async (signal) => {
    const refs = ctx.refs().slice(0, 8);
    const threshold = ctx.number("threshold", .5);
    const key = `${refs} ${threshold}`;
    if (asked !== key) {
      await withPictures(refs, ctx.model, signal, async (pictures) => {
        answer = await call("colors", { signal, body: { ids: pictures.map((one) => one.id), threshold, model: ctx.model } });
        boards = pictures.map((picture, number) => new Board({ ...picture, rows: answer.images[number].rows, columns: answer.images[number].columns,
          name: `colors of ${nameOf(picture.ref)}` }));
        plain = pictures.map((picture) => new Board(picture));
        list.replaceChildren(...plain.map(({ root: one }, number) => h("li", {}, one, boards[number].root)));
      });
      asked = key;
      const background = answer.images.map(({ rows, columns, rgb }) => {
        let kept = 0;
        for (let index = 0; index < rows * columns; index++) kept += Number(rgb[3 * index] + rgb[3 * index + 1] + rgb[3 * index + 2] > 0);
        return Math.round(100 * kept / (rows * columns));
      });
      status.textContent = `${plural(refs.length, "picture")}; foreground: ${background.map((share) => `${share} %`).join(", ")} of the patches`;
    }
    paint();
  });
}

export default {
  key: "colors", name: "Colors", letter: "o", pictures: 8,
  lead: "The first three components of the features, as red, green and blue. Equal colors mean equal parts, in all pictures at once. Choose up to eight of your pictures.",
  mount,
  missing: noPatches,
};
