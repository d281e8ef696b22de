"use strict";
for (const box of document.querySelectorAll("[data-records]")) {
  const body = box.querySelector("tbody");
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const search = box.querySelector("[data-search]");
  const buttons = [...box.querySelectorAll("button[data-bucket]")];
  const count = box.querySelector("[data-count]");
  const more = box.querySelector("[data-more]");
  const first = 20;
  let bucket = "";
  let most = first;
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let found = 0;
    for (const row of rows) {
      const fits = !(bucket && row.dataset.bucket !== bucket) && texts.get(row).includes(wanted);
      found += fits ? 1 : 0;
      row.hidden = !fits || found > most;
    }
    more.hidden = found <= most;
    more.textContent = `show all ${found}`;
    count.textContent = `${Math.min(found, most)} of ${rows.length} shown`;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      bucket = button.dataset.bucket;
      most = first;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      filter();
    });
  }
  const orders = {
    place: (a, b) => a.dataset.place - b.dataset.place,
    key: (a, b) => a.dataset.key.localeCompare(b.dataset.key, undefined, { numeric: true }),
    bucket: (a, b) => a.dataset.bucket.localeCompare(b.dataset.bucket) || a.dataset.place - b.dataset.place,
    value: (a, b) => b.dataset.value - a.dataset.value || a.dataset.place - b.dataset.place,
  };
  box.querySelector("[data-sort]").addEventListener("change", (event) => {
    rows.sort(orders[event.target.value]);
    body.append(...rows);
    filter();
  });
  more.addEventListener("click", () => {
    most = rows.length;
    filter();
  });
  addEventListener("beforeprint", () => {
    most = rows.length;
    filter();
  });
  search.addEventListener("input", filter);
  box.querySelector(".tools").hidden = false;
  filter();
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const step = { j: 1, k: -1 }[event.key];
  if (!step) return;
  const rows = [...document.querySelectorAll("[data-records] tbody tr")].filter((row) => !row.hidden);
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + step))];
  if (next) {
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "center" });
  }
});
addEventListener("beforeprint", () => {
  for (const more of document.querySelectorAll("details")) more.open = true;
});
