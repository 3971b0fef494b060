// A part of a picture: where else it is seen, in the picture and in the collection.
import { call } from "../api.js";
import { Board, readBoxes, writeBoxes } from "../board.js";
import { announce, button, controls, exports, flag, h, has, numResults, segmented, statusLine } from "../dom.js";
import { colorOf, patchCanvas, similarRange } from "../palettes.js";
import { refOf, withPictures } from "../pictures.js";
import { follow, noPatches, paletteChoice, paletteOf, scale, sheetOf, shots, showHits, skeletons, tableOf } from "../results.js";

/** @type {Mount} */
function mount(root, ctx) {
  let mode = "set";
  /** @type {Board|null} */
  let board = null;
  let opened = "";
  let hits = [];
  let range = [0, 1];
  const place = h("div");
  const legend = scale();
  const results = shots("Images with a similar part, the most similar first");
  const status = statusLine();
  root.append(controls(
    segmented("Next part", [["set", "Replace"], ["add", "Add"], ["sub", "Subtract"]], mode, (value) => { mode = value; }),
    button("Clear", () => ctx.go({ add: null, sub: null })),
    numResults(ctx, "12", "24", "48"), paletteChoice(ctx), flag(ctx, "Heat on results", "heat"),
    exports(["list", "similar-parts.csv", () => tableOf(hits)], ["results", "similar-parts.png", () => sheetOf(hits)], ["picture", "part.png", () => board?.picture()])),
  h("div", { class: "beside" }, h("div", { class: "query large" }, place, legend.root,
    h("p", { class: "note", text: "Mouse: Shift adds, Alt subtracts. Keys: arrows move, Shift with arrows stretches, Enter chooses, + adds, - subtracts, Delete takes back." })),
  h("div", {}, status, results.list)));

  /** @param {Picture} picture */
  function boxes({ rows, columns }) {
    return { add: readBoxes(ctx.params.get("add"), rows, columns), sub: readBoxes(ctx.params.get("sub"), rows, columns) };
  }

  /** @param {Picture} picture */
  function makeBoard(picture) {
    const { rows, columns } = picture;
    const write = (next) => ctx.go({ add: writeBoxes(next.add, rows, columns), sub: writeBoxes(next.sub, rows, columns) });
    board = new Board({
      ...picture, mode: () => mode,
      onselect(box, how) {
        const now = boxes(picture);
        if (how === "set" || (how === "sub" && !now.add.length)) write({ add: [box], sub: [] });
        else write({ ...now, [how]: [...now[how], box] });
      },
      onundo() {
        const now = boxes(picture);
        const kind = now.sub.length ? "sub" : "add";
        write({ ...now, [kind]: now[kind].slice(0, -1) });
        announce("Last part taken back");
      },
    });
    place.replaceChildren(board.root);
  }

  /** Heat maps of results, one after the other. @param {any} query @param {AbortSignal} signal */
  async function heatResults(query, signal) {
    for (const hit of hits) {
      const layer = results.list.querySelector(`[data-row="${hit.row}"] .heat`);
      if (!layer || signal.aborted) return;
      const map = await call("heat", { signal, body: { ...query, target: { row: hit.row } } });
      const palette = paletteOf(ctx);
      layer.replaceChildren(patchCanvas(map.rows, map.columns, (index) => {
        const share = (map.values[index] - range[0]) / Math.max(range[1] - range[0], 1e-9);
        return [...colorOf(palette, share), 190];
      }));
    }
  }

  return follow(ctx, results.list, async (signal) => {
    const [ref] = ctx.refs();
    await withPictures([ref], ctx.model, signal, async ([picture]) => {
      if (opened !== `${ref} ${picture.id}`) { makeBoard(picture); opened = `${ref} ${picture.id}`; }
      const now = boxes(picture);
      board?.setMarks(now.add, now.sub);
      legend.root.hidden = !now.add.length;
      if (!now.add.length) {
        board?.heat(null);
        hits = [];
        status.textContent = "Nothing chosen yet.";
        results.fill([]);
        return;
      }
      const query = { id: picture.id, boxes: now.add, minus: now.sub, model: ctx.model,
        rest: now.add.some(([x, y, right, bottom]) => x < right || y < bottom) };
      const map = await call("heat", { signal, body: { ...query, target: { id: picture.id } } });
      range = similarRange(map.values);
      board?.heat(map, { palette: paletteOf(ctx), low: range[0], high: range[1] });
      legend.set(paletteOf(ctx), range[0], range[1], undefined, true);
      status.textContent = "Searching";
      if (!hits.length) results.fill(skeletons(12));
      const k = Math.min(ctx.number("k", 24) || 24, ctx.network.index.num_images);
      const answer = await call("search/region", { signal, body: { ...query, k } });
      hits = showHits(ctx, results, status, answer, ({ row, box, rows, columns }) => ctx.link("parts", { of: refOf(row, ctx.model), ...(box && rows ? { add: writeBoxes([box], rows, columns) } : {}) }));
      if (has(ctx, "heat")) await heatResults(query, signal);
    });
  });
}

export default {
  key: "parts", name: "Similar parts", letter: "p", pictures: 1,
  lead: "Click a patch or drag a box over a part of the picture: a wheel, an eye, a window. Add other parts, subtract what you do not mean.",
  mount,
  missing: noPatches,
};
