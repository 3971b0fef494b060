// Filter by typing and sort by a column; without this script everything is shown, in the order of the command.
const filter = document.querySelector(".filter");
const input = filter.querySelector("input");
const output = filter.querySelector("output");
const tagged = [...document.querySelectorAll("[data-model], [data-benchmark]")];
const names = (key) => [...new Set(tagged.map((one) => one.dataset[key]).filter(Boolean))];
const models = names("model"), benchmarks = names("benchmark");
const matching = (all, words) => all.filter((name) => words.every((word) => name.toLowerCase().includes(word)));
// A word that occurs in the name of a benchmark chooses benchmarks, any other chooses models.
const show = () => {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const isBenchmark = (word) => matching(benchmarks, [word]).length > 0;
  const rows = new Set(matching(models, words.filter((word) => !isBenchmark(word))));
  const columns = new Set(matching(benchmarks, words.filter(isBenchmark)));
  for (const one of tagged) {
    const { model, benchmark } = one.dataset;
    one.hidden = (model && !rows.has(model)) || (benchmark && !columns.has(benchmark));
  }
  output.textContent = words.length ? `${rows.size} of ${models.length} models, ${columns.size} of ${benchmarks.length} benchmarks` : "";
};
filter.hidden = false;
input.addEventListener("input", show);

// Numbers from the largest, names from A; the other way around when it is clicked again.
const sort = (header) => {
  const index = [...header.parentElement.children].indexOf(header);
  const [first, second] = index ? ["descending", "ascending"] : ["ascending", "descending"];
  const order = header.ariaSort === first ? second : first;
  for (const other of header.parentElement.children) other.ariaSort = null;
  header.ariaSort = order;
  const sign = order === "ascending" ? 1 : -1;
  const number = (row) => parseFloat(row.children[index].dataset.value);
  const compare = (a, b) => {
    if (!index) return sign * a.dataset.model.localeCompare(b.dataset.model);
    const [x, y] = [number(a), number(b)];
    return isNaN(x) - isNaN(y) || sign * (x - y) || 0;
  };
  for (const body of header.closest("table").tBodies) {
    body.append(...[...body.rows].filter((row) => row.dataset.model).sort(compare));
  }
};
for (const header of document.querySelectorAll("table.matrix thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  header.append(button);
  button.addEventListener("click", () => sort(header));
}
