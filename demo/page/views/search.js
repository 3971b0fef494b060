// Whole images like this one.
import { call, latest } from "../api.js";
import { choice, exports, h, toggle } from "../dom.js";
import { asked, refOf, sourceOf, withPictures } from "../pictures.js";
import { announceHits, saveHits, saveSheet, shot, shots, shown, skeletons } from "../results.js";

/** @type {import("../main.js").View} */
export default {
  key: "search", name: "Similar images", letter: "s", pictures: 1,
  lead: "Images whose features point the same way as those of your picture. Open a result to go on from it.",
  mount(root, ctx) {
    const query = h("figure", { class: "query" });
    const results = shots("Similar images, the most similar first");
    const status = h("p", { class: "note", role: "status" });
    /** @type {any[]} */
    let hits = [];
    const exact = ctx.card.recall < 1 ? toggle("Exact search", ctx.params.get("exact") === "1", (checked) => ctx.go({ exact: checked ? 1 : null })) : null;
    root.append(h("div", { class: "controls" },
      choice("Results", [["12", "12"], ["24", "24"], ["48", "48"], ["100", "100"]], ctx.params.get("k") || "24", (k) => ctx.go({ k })),
      toggle("Hide copies of results", ctx.params.get("diverse") === "1", (checked) => ctx.go({ diverse: checked ? 1 : null })), exact,
      exports(["list", () => saveHits("similar-images.csv", hits)], ["picture", () => saveSheet("similar-images.png", hits)])),
    h("div", { class: "beside" }, query, h("div", { class: "wide" }, status, results.list)));

    const run = latest(ctx.signal, async (signal) => {
      const k = Number(ctx.params.get("k")) || 24;
      const ref = ctx.params.get("of") || "";
      results.fill(skeletons(Math.min(k, 24)));
      status.textContent = "Searching";
      await withPictures([ref.split(",")[0]], ctx.model, async ([picture]) => {
        query.replaceChildren(h("img", { src: sourceOf(picture), alt: "Your picture" }),
          h("figcaption", {}, `${picture.width} × ${picture.height} pixels`, picture.row === null ? null : h("a", { href: ctx.link("collection", { row: picture.row }), text: "What is known of it" })));
        const answer = await call("search", { signal, body: { ...asked(picture), k: Math.min(k, ctx.network.index.num_images), diverse: ctx.params.get("diverse") === "1", exact: ctx.params.get("exact") === "1", model: ctx.model } });
        hits = answer.hits.map((hit) => ({ ...hit, model: ctx.model }));
        results.fill(hits.map((hit, number) => shot(hit, ctx.link("search", { of: refOf(hit.row, ctx.model) }), { rank: number + 1, then: "" })));
        status.textContent = `${hits.length} results in ${Math.round(answer.ms)} ms`;
        announceHits(hits, answer.ms);
      });
    });
    return () => shown(results.list, run);
  },
};
