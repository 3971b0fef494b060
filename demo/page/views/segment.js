// What was clicked, cut out without labels or training, here and in other pictures.
import { call } from "../api.js";
import { Board, readBoxes, writeBoxes } from "../board.js";
import { announce, button, canvasOf, clamp, controls, exports, h, has, level, segmented, statusLine, toggle } from "../dom.js";
import { inHand, withPictures } from "../pictures.js";
import { follow, noPatches } from "../results.js";

/** Probabilities between patches, by straight lines. @param {{rows: number, columns: number, prob: number[]}} map @param {number} scale */
function enlarge({ rows, columns, prob }, scale) {
  const [high, wide] = [rows * scale, columns * scale];
  const values = new Float32Array(high * wide);
  for (let y = 0; y < high; y++) {
    const v = (y + .5) / scale - .5;
    const [top, down] = [clamp(Math.floor(v), 0, rows - 1), clamp(Math.floor(v) + 1, 0, rows - 1)];
    for (let x = 0; x < wide; x++) {
      const u = (x + .5) / scale - .5;
      const [left, right] = [clamp(Math.floor(u), 0, columns - 1), clamp(Math.floor(u) + 1, 0, columns - 1)];
      const [s, t] = [u - Math.floor(u), v - Math.floor(v)];
      values[y * wide + x] = (prob[top * columns + left] * (1 - s) + prob[top * columns + right] * s) * (1 - t) + (prob[down * columns + left] * (1 - s) + prob[down * columns + right] * s) * t;
    }
  }
  return { values, wide, high };
}

/** @param {any} map @param {number} threshold @param {(inside: boolean, edge: boolean) => number[]} pixel */
function cutout(map, threshold, pixel) {
  const { values, wide, high } = enlarge(map, 12);
  const { canvas, context } = canvasOf(wide, high);
  const data = context.createImageData(wide, high);
  for (let index = 0; index < values.length; index++) {
    const inside = values[index] >= threshold;
    const x = index % wide;
    const edge = inside && [x > 1 ? index - 2 : index, x < wide - 2 ? index + 2 : index, index - 2 * wide, index + 2 * wide].some((near) => values[near] !== undefined && values[near] < threshold);
    data.data.set(pixel(inside, edge), 4 * index);
  }
  context.putImageData(data, 0, 0);
  return canvas;
}

/** @type {Mount} */
function mount(root, ctx) {
  let mode = "add";
  let opened = "";
  /** @type {Board[]} */
  let boards = [];
  let answer = null;
  const place = h("div");
  const rest = h("ul", { class: "pairs single", "aria-label": "The same in other pictures" });
  const status = statusLine();
  const everywhere = h("a", { class: "button", href: "#", text: "Find in the collection" });
  const all = () => [...new Set([ctx.refs()[0], ...inHand()])].join();
  const threshold = () => ctx.number("from", .5);
  root.append(controls(
    segmented("Click", [["add", "Wanted"], ["sub", "Not wanted"]], mode, (value) => { mode = value; }),
    level(ctx, "Threshold", "from", [.05, .95, .05, .5]), button("In all your pictures", () => ctx.go({ of: all() })),
    toggle("As frames of a video", has(ctx, "frames"), (on) => ctx.go({ frames: on ? 1 : null, ...(on && ctx.refs().length < 2 ? { of: all() } : {}) })),
    button("Clear", () => ctx.go({ plus: null, minus: null })), everywhere, exports(["mask", "mask.png", () => answer && cutout(answer.images[0], threshold(), (inside) => (inside ? [255, 255, 255, 255] : [0, 0, 0, 255]))],
      ["run lengths", "masks.json", () => answer], ["picture", "segment.png", () => boards[0]?.picture()])),
  status, h("div", { class: "beside" }, h("div", { class: "query large" }, place,
    h("p", { class: "note", text: "Mouse: Alt or Ctrl marks what is not wanted. Keys: arrows move, Enter marks, - marks what is not wanted, Delete takes back." })), h("div", {}, rest)));

  function paint() {
    boards.forEach((board, number) => {
      const map = answer?.images[number];
      board.layer(map ? cutout(map, threshold(), (inside, edge) => (edge ? [255, 255, 255, 255] : inside ? [92, 196, 181, 46] : [12, 14, 18, 178])) : null);
    });
  }

  /** @param {Picture} picture */
  function makeBoard(picture) {
    const { rows, columns } = picture;
    const read = (key) => readBoxes(ctx.params.get(key), rows, columns);
    const board = new Board({ ...picture, points: true, mode: () => mode,
      onselect: (box, how) => { const key = how === "sub" ? "minus" : "plus"; ctx.go({ [key]: writeBoxes([...read(key), box], rows, columns) }); },
      onundo: () => { const key = read("minus").length ? "minus" : "plus"; ctx.go({ [key]: writeBoxes(read(key).slice(0, -1), rows, columns) }); announce("Last mark taken back"); } });
    place.replaceChildren(board.root);
    boards = [board];
  }

  return follow(ctx, rest, async (signal) => {
    const [ref] = ctx.refs();
    await withPictures(ctx.refs(), ctx.model, signal, async ([picture, ...more]) => {
      const key = `${picture.id}`;
      if (opened !== key) { makeBoard(picture); opened = key; }
      const { rows, columns } = picture;
      const [plus, minus] = ["plus", "minus"].map((one) => readBoxes(ctx.params.get(one), rows, columns));
      boards[0].setMarks(plus, minus);
      everywhere.href = ctx.link("parts", { of: ref, add: writeBoxes(plus, rows, columns), sub: writeBoxes(minus, rows, columns) });
      everywhere.hidden = !plus.length;
      if (!plus.length) {
        answer = null;
        boards = boards.slice(0, 1);
        rest.replaceChildren();
        status.textContent = "Nothing marked yet.";
        paint();
        return;
      }
      answer = await call("segment", { signal, body: { id: picture.id, plus: plus.map(([x, y]) => [x, y]), minus: minus.map(([x, y]) => [x, y]), propagate: more.map((one) => one.id), frames: has(ctx, "frames"), threshold: threshold(), model: ctx.model } });
      boards = [boards[0], ...more.map((one) => new Board(one))];
      rest.replaceChildren(...boards.slice(1).map((board) => h("li", {}, board.root)));
      const share = answer.images[0].prob.filter((value) => value >= threshold()).length / answer.images[0].prob.length;
      status.textContent = `${plus.length} wanted, ${minus.length} not wanted; ${Math.round(100 * share)} % of the patches are cut out.`;
      paint();
    });
  });
}

export default {
  key: "segment", name: "Segment", letter: "e", pictures: 64,
  lead: "Click what you want, and what you do not want: what looks like it is cut out, without labels or training. Choose more of your pictures to find it in them, too.",
  mount,
  missing: noPatches,
};
