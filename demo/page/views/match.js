// Patches of two pictures that are each other's nearest.
import { call, latest } from "../api.js";
import { Board } from "../board.js";
import { announce, canvasOf, controls, dot, exports, flag, h, has, level, onResize, plural, statusLine } from "../dom.js";
import { placeColor, similarRange } from "../palettes.js";
import { asked, nameOf, refOf, withPictures } from "../pictures.js";
import { follow, noPatches, paletteChoice, paletteOf, scale } from "../results.js";

/** @type {Mount} */
function mount(root, ctx) {
  const lines = h("canvas", { class: "lines", "aria-hidden": "true" });
  const stage = h("div", { class: "stage" });
  const status = statusLine();
  const legend = scale();
  legend.root.hidden = true;
  /** @type {Board[]} */
  let boards = [];
  /** @type {Picture[]} */
  let pictures = [];
  /** @type {number[][]} */
  let pairs = [];
  let opened = "";
  let near = /** @type {{side: number, place: number[]}|null} */ (null);
  root.append(controls(
    level(ctx, "Minimum similarity", "min", [0, 1, .02, 0]), level(ctx, "Maximum ratio", "ratio", [.5, 1, .02, 1]), flag(ctx, "Mutual only", "mutual", true),
    flag(ctx, "One motion", "motion"), flag(ctx, "Without position", "position"),
    paletteChoice(ctx), exports(["pairs", "matches.json", () => ({ pictures: pictures.map(({ row, rows, columns }) => ({ row, rows, columns })), pairs })], ["picture", "matches.png", drawPairs])),
  h("div", { class: "status-line" }, status, legend.root), stage);

  /** The lines, on a canvas that lies over both pictures. */
  function paint() {
    if (boards.length < 2 || ctx.signal.aborted) return;
    const frame = stage.getBoundingClientRect();
    const density = devicePixelRatio || 1;
    [lines.width, lines.height] = [frame.width * density, frame.height * density];
    const context = lines.getContext("2d");
    context.scale(density, density);
    const boxes = boards.map((board) => board.root.getBoundingClientRect());
    const at = (side, row, column) => [
      boxes[side].left - frame.left + (column + .5) / pictures[side].columns * boxes[side].width,
      boxes[side].top - frame.top + (row + .5) / pictures[side].rows * boxes[side].height];
    trace(context, at);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {(side: number, row: number, column: number) => number[]} at
   */
  function trace(context, at) {
    const few = pairs.length < 80;
    for (const [ra, ca, rb, cb] of [...pairs].reverse()) {
      const isNear = near && (near.side ? near.place[1] === rb && near.place[0] === cb : near.place[1] === ra && near.place[0] === ca);
      const [from, to] = [at(0, ra, ca), at(1, rb, cb)];
      const color = placeColor((ca + .5) / pictures[0].columns, (ra + .5) / pictures[0].rows);
      context.globalAlpha = near ? (isNear ? 1 : .14) : few ? 1 : .8;
      const halo = few || isNear ? [["rgb(255 255 255 / .6)", isNear ? 6 : 3]] : [];
      for (const [stroke, width] of /** @type {[string, number][]} */ ([...halo, [color, isNear ? 3.2 : few ? 1.7 : 1.2]])) {
        context.strokeStyle = stroke;
        context.lineWidth = width;
        context.beginPath();
        context.moveTo(from[0], from[1]);
        context.lineTo(to[0], to[1]);
        context.stroke();
      }
      for (const [x, y] of [from, to]) {
        dot(context, x, y, isNear ? 5.5 : few ? 3.6 : 2.6, "#fff");
        dot(context, x, y, isNear ? 4.2 : few ? 2.6 : 1.9, color);
      }
    }
    context.globalAlpha = 1;
  }

  async function drawPairs() {
    if (boards.length < 2) return null;
    const canvases = await Promise.all(boards.map((board) => board.picture()));
    const { canvas, context } = canvasOf(canvases[0].width + 40 + canvases[1].width, Math.max(canvases[0].height, canvases[1].height));
    canvases.forEach((one, side) => context.drawImage(one, side * (canvases[0].width + 40), 0));
    trace(context, (side, row, column) => [(side ? canvases[0].width + 40 : 0) + (column + .5) / pictures[side].columns * canvases[side].width,
      (row + .5) / pictures[side].rows * canvases[side].height]);
    return canvas;
  }

  const hover = latest(ctx.signal, async (signal, side, place) => {
    near = { side, place };
    paint();
    const [column, row] = place;
    const other = 1 - side;
    const map = await withPictures(ctx.refs().slice(0, 2), ctx.model, signal, (both) =>
      call("heat", { signal, body: { id: both[side].id, boxes: [[column, row, column, row]], minus: [], target: { id: both[other].id }, model: ctx.model } }));
    boards[side].heat(null);
    boards[side].setMarks([[column, row, column, row]]);
    boards[other].setMarks([]);
    const [low, high] = similarRange(map.values);
    boards[other].heat(map, { palette: paletteOf(ctx), low, high });
    legend.root.hidden = false;
    legend.set(paletteOf(ctx), low, high, undefined, true);
    const best = map.values.indexOf(high);
    announce(`Most similar in the other picture: row ${Math.floor(best / map.columns) + 1}, column ${best % map.columns + 1}, ${high.toFixed(2)}`);
  });
  const quiet = latest(ctx.signal, async (signal) => {
    await new Promise((resolve) => setTimeout(resolve, 60));
    if (signal.aborted) return;
    near = null;
    boards.forEach((board) => { board.heat(null); board.setMarks([]); });
    legend.root.hidden = true;
    paint();
  });

  /** Patches that the server has no time for are left out. @param {number} side @param {number[]} place */
  function point(side, place) { hover(side, place).catch((error) => { status.textContent = error.message; }); }

  onResize(ctx, stage, paint);
  return follow(ctx, status, async (signal) => {
    const refs = ctx.refs().slice(0, 2);
    if (refs.length < 2) {
      // Alone in hand: its nearest neighbor is the other one.
      await withPictures(refs, ctx.model, signal, async ([only]) => {
        const { hits } = await call("search", { signal, body: { ...asked(only), k: Math.min(2, ctx.network.index.num_images), model: ctx.model } });
        const other = hits.find((hit) => hit.row !== only.row);
        if (other) ctx.go({ of: `${refs[0]},${refOf(other.row, ctx.model)}` });
        else status.textContent = "The collection has no other image: add a second picture.";
      });
      return;
    }
    await withPictures(refs, ctx.model, signal, async (both) => {
      pictures = both;
      const key = both.map((one) => one.id).join();
      if (opened !== key) {
        boards = both.map((picture, side) => new Board({ ...picture, name: `${side ? "second" : "first"} picture: ${nameOf(picture.ref)}`,
          onhover: (column, row) => point(side, [column, row]), onleave: () => void quiet(),
          onselect: (box) => point(side, [box[0], box[1]]), points: true }));
        stage.replaceChildren(boards[0].root, boards[1].root, lines);
        boards.forEach((board) => board.image.addEventListener("load", paint));
        opened = key;
      }
      status.textContent = "Matching";
      const answer = await call("match", { signal, body: { a: both[0].id, b: both[1].id, min_score: ctx.number("min", 0), mutual: has(ctx, "mutual", true),
        ratio: ctx.number("ratio", 1), position: has(ctx, "position"), motion: has(ctx, "motion"), model: ctx.model } });
      pairs = answer.pairs;
      // Grids of the answer, not of the upload: the size of the network's picture decides.
      [pictures[0], pictures[1]] = both.map((picture, side) => { const [rows, columns] = side ? answer.b : answer.a; return { ...picture, rows, columns }; });
      status.textContent = `${plural(pairs.length, "pair")}${pairs.length ? `; similarity ${pairs[pairs.length - 1][4].toFixed(2)} to ${pairs[0][4].toFixed(2)}` : ""}. Colors follow the place in the first picture.`;
      paint();
    });
  });
}

export default {
  key: "match", name: "Matching", letter: "m", pictures: 2,
  lead: "Patches of two pictures that are each other's nearest. Point at a patch, or move to it with the arrow keys, to see how similar the other picture is to it everywhere.",
  mount,
  missing: noPatches,
};
