// The dendrogram of classes beside the map: a branch selects the images of its classes.
import { call } from "../api.js";
import { canvasOf, count, exports, find, h, isChord, plural } from "../dom.js";

const [ROW, STEM, TREE, WIDTH] = [24, 12, 170, 310]; // pixels: of a class; where the root, names and all end

/** @param {Context} ctx */
export function classTree(ctx) {
  let tree = null;
  /** @type {{classes: number[], far: number, kids: number[], up?: number, y?: number, item?: HTMLElement}[]} */
  let nodes = []; // classes, then branches in the order in which they join
  /** @type {number[]} */
  let walk = []; // nodes from the root on
  /** @type {Set<number>} */
  let chosen = new Set();
  let isSeen = false;
  const { canvas, context } = canvasOf(0, 0, { "aria-hidden": "true" });
  const items = h("div", { role: "tree", "aria-label": "Classes", "aria-multiselectable": "true", class: "twigs", onkeydown: key, onfocusin: (event) => {
    find(items, '[tabindex="0"]').tabIndex = -1;
    event.target.tabIndex = 0;
  } });
  const saving = exports(["dendrogram", "classes.png", () => canvas]);
  const note = h("p", { class: "note" });
  const root = h("section", { class: "clusters" }, note, items);

  /** @param {AbortSignal} signal */
  async function load(signal) {
    tree ??= await call(`map/classes?model=${ctx.model}`, { signal });
    if (!nodes.length) grow();
  }

  function grow() {
    const { names, images, merges, cophenetic } = tree;
    const all = ctx.network.index.num_classes;
    note.textContent = `The means of ${all > names.length ? `the ${count(names.length)} most frequent of ` : ""}${count(all)} classes by average linkage.${cophenetic === null ? "" : ` Cophenetic correlation: ${cophenetic.toFixed(2)}.`}`;
    root.insertBefore(saving, items);
    nodes = names.map((_, at) => ({ classes: [at], far: 0, kids: [] }));
    for (const [a, b, far] of merges) {
      nodes[a].up = nodes[b].up = nodes.length;
      nodes.push({ classes: [...nodes[a].classes, ...nodes[b].classes], far, kids: [a, b] });
    }
    nodes.at(-1).classes.forEach((one, at) => { nodes[one].y = at; });
    for (const node of nodes) if (node.kids.length) node.y = (nodes[node.kids[0]].y + nodes[node.kids[1]].y) / 2;
    const waiting = [[nodes.length - 1, 1]];
    while (waiting.length) {
      const [at, depth] = waiting.pop();
      const { classes, far, kids } = nodes[at];
      walk.push(at);
      waiting.push(...kids.map((kid) => [kid, depth + 1]).reverse());
      const left = Math.round(x(nodes[at].up));
      const more = classes.length > 4 ? ` and ${classes.length - 4} more` : "";
      const text = `${classes.slice(0, 4).map((one) => names[one]).join(", ")}${more}; ${plural(classes.reduce((sum, one) => sum + images[one], 0), "image")}${kids.length ? `, distance ${far.toFixed(2)}` : ""}`;
      nodes[at].item = h("div", { role: "treeitem", tabindex: depth > 1 ? -1 : 0, "aria-level": depth, "aria-label": text, title: text, "data-node": at, onclick: () => toggle(at),
        style: { left: `${left}px`, top: `${nodes[classes[0]].y * ROW}px`, width: `${(kids.length ? x(at) : WIDTH) - left}px`, height: `${classes.length * ROW}px` } });
    }
    items.append(canvas, ...walk.map((at) => nodes[at].item));
  }

  /** Where a node is, from left to right; what is above the root is at the left. @param {number} [at] */
  const x = (at) => (at === undefined ? 0 : STEM + (TREE - STEM) * (1 - nodes[at].far / (nodes.at(-1).far || 1)));

  function paint() {
    if (!tree) return;
    const height = tree.names.length * ROW;
    const density = Math.min(devicePixelRatio || 1, 32000 / height); // canvases have at most 32,767 pixels
    [canvas.width, canvas.height] = [WIDTH * density, height * density];
    context.scale(density, density);
    const style = getComputedStyle(items);
    const [paper, ink, accent] = ["--raised", "--ink", "--accent"].map((name) => style.getPropertyValue(name));
    context.fillStyle = paper;
    context.fillRect(0, 0, WIDTH, height);
    context.font = `13px ${style.fontFamily}`;
    nodes.forEach(({ classes, kids, up, y, item }, at) => {
      const isWhole = classes.every((one) => chosen.has(one));
      item.setAttribute("aria-checked", isWhole ? "true" : classes.some((one) => chosen.has(one)) ? "mixed" : "false");
      context.strokeStyle = context.fillStyle = isWhole ? accent : ink;
      context.lineWidth = isWhole ? 3 : 1;
      context.beginPath();
      context.moveTo(x(up), (y + .5) * ROW);
      context.lineTo(x(at), (y + .5) * ROW);
      kids.forEach((kid) => { context.moveTo(x(at), (y + .5) * ROW); context.lineTo(x(at), (nodes[kid].y + .5) * ROW); });
      context.stroke();
      if (!kids.length) context.fillText(tree.names[at].replace(/^(.{27}).{2,}/, "$1…"), TREE + 6, (y + .5) * ROW + 4, WIDTH - TREE - 10);
    });
  }

  /** @param {number} at */
  function toggle(at) {
    const { classes, item } = nodes[at];
    const isWhole = item.ariaChecked === "true";
    ctx.go({ classes: tree.names.map((_, one) => one).filter((one) => (classes.includes(one) ? !isWhole : chosen.has(one))).join() });
  }

  /** @param {KeyboardEvent} event */
  function key(event) {
    const node = Number(/** @type {HTMLElement} */ (event.target).dataset.node);
    const at = walk.indexOf(node);
    const to = { ArrowDown: walk[at + 1], ArrowUp: walk[at - 1], ArrowRight: nodes[node].kids[0], ArrowLeft: nodes[node].up, Home: walk[0], End: walk.at(-1) }[event.key];
    if (isChord(event)) return;
    if (to !== undefined) nodes[to].item.focus();
    else if ([" ", "Enter"].includes(event.key)) toggle(node);
    else return;
    event.preventDefault();
  }

  return {
    root, load, paint,
    /** Whether a dot belongs to what is chosen. @param {number} at */
    has: (at) => chosen.has(tree?.of_rows[at]),
    /** @param {Set<number>} classes */
    choose(classes) {
      chosen = classes;
      paint();
      if (isSeen || !tree || root.hidden) return;
      isSeen = true;
      root.scrollTop = items.offsetTop - root.offsetTop + ROW * Math.min(...[...classes].map((one) => nodes[one]?.y ?? 0));
    },
  };
}
