"use strict";
for (const box of document.querySelectorAll("[data-records]")) {
  const body = box.querySelector("tbody");
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const search = box.querySelector("[data-search]");
  const buttons = [...box.querySelectorAll("button[data-bucket]")];
  const count = box.querySelector("[data-count]");
  let bucket = "";
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = Boolean(bucket && row.dataset.bucket !== bucket) || !texts.get(row).includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} shown`;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      bucket = button.dataset.bucket;
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
