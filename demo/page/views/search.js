// Whole images like this one.
import { call } from "../api.js";
import { controls, exports, flag, h, has, numResults, statusLine } from "../dom.js";
import { asked, nameOf, refOf, sourceOf, withPictures } from "../pictures.js";
import { follow, sheetOf, shots, showHits, skeletons, tableOf } from "../results.js";

/** @type {Mount} */
function mount(root, ctx) {
  const query = h("figure", { class: "query" });
  const results = shots("Similar images, the most similar first");
  const status = statusLine();
  let hits = [];
  const exact = ctx.card.recall < 1 ? flag(ctx, "Exact search", "exact") : null;
  root.append(controls(numResults(ctx, "12", "24", "48", "100"), flag(ctx, "Hide copies of results", "diverse"), exact,
    exports(["list", "similar-images.csv", () => tableOf(hits)], ["picture", "similar-images.png", () => sheetOf(hits)])),
  h("div", { class: "beside" }, query, h("div", {}, status, results.list)));

  return follow(ctx, results.list, async (signal) => {
    const k = ctx.number("k", 24) || 24;
    results.fill(skeletons(Math.min(k, 24)));
    status.textContent = "Searching";
    await withPictures(ctx.refs().slice(0, 1), ctx.model, signal, async ([picture]) => {
      query.replaceChildren(h("img", { src: sourceOf(picture), alt: nameOf(picture.ref) }),
        h("figcaption", {}, `${picture.width} × ${picture.height} pixels`, picture.row === null ? null : h("a", { href: ctx.link("collection", { row: picture.row }), text: "Details" })));
      const answer = await call("search", { signal, body: { ...asked(picture), k: Math.min(k, ctx.network.index.num_images), diverse: has(ctx, "diverse"), exact: has(ctx, "exact"), model: ctx.model } });
      hits = showHits(ctx, results, status, answer, (hit) => ctx.link("search", { of: refOf(hit.row, ctx.model) }));
    });
  });
}

export default {
  key: "search", name: "Similar images", letter: "s", pictures: 1,
  lead: "Images whose features point the same way as those of your picture. Open a result to go on from it.",
  mount,
};
