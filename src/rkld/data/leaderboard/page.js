"use strict";
const tools = document.querySelector("[data-tools]");
const chosen = (name) => tools.querySelector(`[data-filter="${name}"]`).value;
const sections = [...document.querySelectorAll("section[data-benchmark]")];
const search = tools.querySelector("[data-search]");
const sort = tools.querySelector("[data-sort]");
const filter = () => {
  const wanted = search.value.trim().toLowerCase();
  let shown = 0;
  let all = 0;
  for (const section of sections) {
    const here = [["benchmark", section.dataset.benchmark], ["model", section.dataset.model]];
    const fits = here.every(([name, value]) => !chosen(name) || chosen(name) === value);
    let some = 0;
    for (const row of section.querySelector("tbody").rows) {
      const moment = chosen("moment");
      const found = fits && (!moment || row.dataset.moment === moment) && row.dataset.method.toLowerCase().includes(wanted);
      row.hidden = !found;
      some += found ? 1 : 0;
      all += 1;
    }
    section.hidden = !some;
    for (const point of section.querySelectorAll("[data-point]")) {
      point.toggleAttribute("hidden", !point.dataset.point.toLowerCase().includes(wanted));
    }
    shown += some;
  }
  tools.querySelector("[data-count]").textContent = `${shown} of ${all} rows shown`;
};
const order = (a, b) => {
  const by = sort.value;
  const [x, y] = [a.dataset[by], b.dataset[by]];
  if (x === "" || y === "") return (x === "") - (y === "");
  if (x - y !== x - y) return 0; // both are infinite
  return by === "utility" ? y - x : x - y;
};
sort.addEventListener("change", () => {
  for (const section of sections) {
    const body = section.querySelector("tbody");
    body.append(...[...body.rows].sort((a, b) => order(a, b) || a.dataset.place - b.dataset.place));
  }
});
search.addEventListener("input", filter);
for (const select of tools.querySelectorAll("[data-filter]")) select.addEventListener("change", filter);
addEventListener("beforeprint", () => {
  for (const more of document.querySelectorAll("details")) more.open = true;
});
tools.hidden = false;
filter();
