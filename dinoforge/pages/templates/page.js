// Values under the pointer (or the arrow keys); without this script the legends show the first and last values.
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const chart = JSON.parse(svg.dataset.chart);
  const rule = svg.querySelector(".rule");
  const unit = svg.parentElement.querySelector("figcaption span") ||
    svg.parentElement.querySelector("figcaption").appendChild(document.createElement("span"));
  const values = svg.parentElement.querySelectorAll("[data-span]");
  const title = unit.textContent;
  let at = -1;
  const show = (index) => {
    at = Math.max(0, Math.min(chart.x.length - 1, index));
    rule.setAttribute("x1", chart.x[at]);
    rule.setAttribute("x2", chart.x[at]);
    rule.setAttribute("visibility", "visible");
    unit.textContent = chart.label[at];
    values.forEach((value, series) => { value.textContent = chart.y[series][at]; });
  };
  const hide = () => {
    rule.setAttribute("visibility", "hidden");
    unit.textContent = title;
    values.forEach((value) => { value.textContent = value.dataset.span; });
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const far = chart.x.map((value) => Math.abs(value - x));
    show(far.indexOf(Math.min(...far)));
  });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (move && chart.x.length) { show(at + move); event.preventDefault(); }
  });
  for (const name of ["pointerleave", "blur"]) svg.addEventListener(name, hide);
}
