// All images of the index, as many as there are; only those on the screen are in the page.
import { call, rowSource } from "../api.js";
import { announce, button, clamp, controls, count, exports, factList, find, h, isChord, onResize, pictureOf, plural } from "../dom.js";
import { refOf, take } from "../pictures.js";
import { fault, follow, shot, titleOf } from "../results.js";

const PAGE = 60; // rows per request
const HIGHEST = 1.6e7; // pixels; browsers draw nothing beyond 17 to 33 million
const FACTS = { key: "Key", class_name: "Class", shard: "File", member: "Member", url: "Address", source: "Source", license: "License" };

/** @type {Mount} */
function mount(root, ctx) {
  const total = ctx.network.index.num_images;
  /** @type {Map<number, Promise<any[]>>} */
  const pages = new Map();
  const jump = h("input", { type: "number", min: 0, max: total - 1, inputmode: "numeric", value: "", placeholder: "0", onchange: () => focusRow(Number(jump.value)) });
  const list = h("ul", { class: "wall", "aria-label": `Collection, ${plural(total, "image")}` });
  const spacer = h("div", { class: "spacer" }, list);
  const scroller = h("div", { class: "scroller", onscroll: () => requestAnimationFrame(layout) }, spacer);
  const status = h("span", { class: "note num" });
  root.append(controls(h("label", { class: "choice" }, h("span", { text: "Go to image" }), jump), status), scroller);
  let at = 0; // the row with the focus
  let drawn = "";
  let start = 0; // the first row that is drawn

  /** @param {number} page */
  function load(page) {
    const known = pages.get(page);
    if (known) return known;
    const loading = call(`rows?from=${page * PAGE}&count=${PAGE}&model=${ctx.model}`, { signal: ctx.signal }).then((answer) => answer.rows);
    pages.set(page, loading);
    loading.catch(() => pages.delete(page));
    return loading;
  }

  function measure() {
    const width = spacer.clientWidth || root.clientWidth;
    const columns = Math.max(3, Math.floor(width / 148));
    const side = width / columns;
    const [high, seen] = [Math.ceil(total / columns) * side, scroller.clientHeight];
    // If not all lines fit, a pixel of scrolling passes several pixels of them.
    return { columns, side, high, stretch: Math.max(1, (high - seen) / (HIGHEST - seen)) };
  }

  async function layout() {
    if (ctx.signal.aborted) return;
    const { columns, side, high, stretch } = measure();
    spacer.style.setProperty("height", `${Math.min(high, HIGHEST)}px`);
    const top = scroller.scrollTop * stretch;
    const bottom = top + scroller.clientHeight;
    const first = Math.max(0, Math.floor(top / side) - 1) * columns;
    const last = Math.min(total, (Math.ceil(bottom / side) + 1) * columns);
    const key = `${first} ${last} ${columns}`;
    status.textContent = `${count(Math.min(total, Math.ceil(top / side) * columns + 1))} to ${count(Math.min(total, Math.floor(bottom / side) * columns))} of ${count(total)}`;
    const place = () => list.style.setProperty("transform", `translateY(${scroller.scrollTop + Math.floor(start / columns) * side - scroller.scrollTop * stretch}px)`);
    place();
    if (key === drawn) return;
    drawn = key;
    try {
      const wanted = [];
      for (let page = Math.floor(first / PAGE); page * PAGE < last; page++) wanted.push(load(page));
      const loaded = (await Promise.all(wanted)).flat().filter(({ row }) => row >= first && row < last);
      if (key !== drawn) return;
      const focused = list.contains(document.activeElement);
      start = first;
      place();
      list.style.setProperty("--columns", String(columns));
      list.style.setProperty("--side", `${side}px`);
      list.replaceChildren(...loaded.map(({ row, facts }) => {
        const item = shot({ row, model: ctx.model, facts }, ctx.link("collection", { row }));
        item.firstChild.tabIndex = row === at ? 0 : -1;
        item.setAttribute("aria-setsize", String(total));
        item.setAttribute("aria-posinset", String(row + 1));
        return item;
      }));
      if (!list.querySelector('[tabindex="0"]')) list.querySelector("a")?.setAttribute("tabindex", "0");
      if (focused) focusShot();
    } catch (error) {
      if (!ctx.signal.aborted) fault(list, error, () => { drawn = ""; void layout(); });
    }
  }

  const focusShot = () => find(list, `[data-row="${at}"]`)?.focus({ preventScroll: true });

  /** @param {number} row */
  async function focusRow(row) {
    const { columns, side, stretch } = measure();
    at = clamp(Math.round(row) || 0, 0, total - 1);
    const top = Math.floor(at / columns) * side;
    scroller.scrollTop = clamp(scroller.scrollTop * stretch, top + side - scroller.clientHeight, top) / stretch;
    await layout();
    focusShot();
  }

  list.addEventListener("focusin", (event) => {
    const row = /** @type {HTMLElement} */ (event.target).dataset.row;
    if (row !== undefined) at = Number(row);
    list.querySelectorAll("a").forEach((one) => { one.tabIndex = one === event.target ? 0 : -1; });
  });
  list.addEventListener("keydown", (event) => {
    const { columns, side } = measure();
    const screen = columns * Math.max(1, Math.floor(scroller.clientHeight / side));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: screen, PageUp: -screen, Home: -total, End: total }[event.key];
    if (step === undefined || isChord(event)) return;
    event.preventDefault();
    void focusRow(at + step);
  });

  scroller.addEventListener("wheel", (event) => {
    const { stretch } = measure();
    if (stretch === 1 || event.ctrlKey) return;
    event.preventDefault();
    scroller.scrollTop += event.deltaY / stretch;
  }, { passive: false });
  onResize(ctx, scroller, () => { drawn = ""; void layout(); });
  ctx.signal.addEventListener("abort", closeImage);

  const box = h("dialog", { class: "image", onclose: () => { ctx.go({ row: null }); if (!ctx.signal.aborted) void focusRow(at); }, "aria-label": "Image" });
  root.append(box);
  function closeImage() { if (box.open) box.close(); } // its event clears the address

  /** @param {number} row @param {AbortSignal} signal */
  async function showImage(row, signal) {
    const facts = (await load(Math.floor(row / PAGE))).find((one) => one.row === row)?.facts ?? {};
    signal.throwIfAborted();
    const ref = refOf(row, ctx.model);
    const title = titleOf({ row, facts });
    box.setAttribute("aria-label", title);
    box.replaceChildren(
      h("div", { class: "photo" }, h("img", { src: rowSource(row, ctx.model, "image"), alt: title })),
      h("div", { class: "about" }, h("h2", { text: title }),
        factList([["Image", row], ...Object.entries(FACTS).map(([name, text]) => [text, facts[name]]), ["Pixels", facts.width && `${facts.width} × ${facts.height}`]],
          (value) => (/^https?:/.test(value) ? h("a", { href: value, rel: "noreferrer", target: "_blank", text: value }) : String(value))),
        h("ul", { class: "links" }, ...ctx.views.map(({ key, name }) => h("li", {}, h("a", { href: ctx.link(key, { of: ref }), text: name, onclick: () => take(ref) })))),
        exports(["picture", `image-${row}.png`, async () => (await pictureOf(rowSource(row, ctx.model, "image"))).canvas], ["facts", `image-${row}.json`, () => facts]),
        h("div", { class: "actions" }, button("Keep", () => { take(ref); announce("Kept"); closeImage(); }), button("Close", closeImage))));
    if (box.open) return;
    await focusRow(row); // to which the dialog returns the focus
    if (box.isConnected && !signal.aborted) box.showModal();
  }

  return follow(ctx, list, async (signal) => {
    await layout();
    const row = ctx.params.get("row");
    if (row === null) closeImage();
    else if (Number(row) >= 0 && Number(row) < total) { at = Number(row); await showImage(at, signal); }
  });
}

export default {
  key: "collection", name: "Collection", letter: "c", pictures: 0,
  lead: "Every image of the index. Open one to ask for images, or parts of images, like it.",
  mount,
};
