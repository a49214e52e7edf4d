"use strict";
// Filters, sorting, columns, the theme, and what runs open. Without this script the boards still show.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const boards = all(".board");
const search = document.getElementById("search");
const level = document.getElementById("level");
const filters = all("[data-filter]");
const claims = all("tr.claim");

// Every cell under a named column carries its name: for the column chooser, and as a label on phones.
for (const table of all("table:not(.small)")) {
  const names = all("thead th", table).map((th) => th.dataset.column);
  for (const row of all("tbody tr:not(.execution)", table)) {
    [...row.children].forEach((cell, i) => { if (names[i] && cell.tagName === "TD") cell.dataset.column = names[i]; });
  }
}
const told = (row, more = "") => (more + " " + row.textContent).toLowerCase();

function applyFilters() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const floor = Number(level.value);
  let shown = 0;
  for (const board of boards) {
    const fits = filters.every((f) => !f.value || board.dataset[f.dataset.filter] === f.value);
    let found = 0;
    for (const row of all("tr.algorithm", board)) {
      const verified = Number(row.dataset.level) >= floor;
      row.hidden = !(verified && words.every((word) => told(row, board.dataset.task + board.dataset.dataset).includes(word)));
      found += row.hidden ? 0 : 1;
    }
    for (const group of all("tbody.ranked", board)) {
      rankAgain(group, floor);
      group.hidden = !all("tr.algorithm", group).some((row) => !row.hidden);
    }
    const floorsOnly = !all("tr.algorithm", board).length && !words.length;
    board.hidden = !fits || !(found || floorsOnly);
    shown += board.hidden ? 0 : 1;
  }
  for (const claim of claims) claim.hidden = !words.every((word) => told(claim).includes(word));
  document.getElementById("none").hidden = shown > 0;
  document.getElementById("count").textContent = `${shown} of ${boards.length} boards`;
}

// Rows below the chosen level take no rank from those that are shown.
function rankAgain(group, floor) {
  const ranked = all("td[data-rank]", group).filter((cell) => cell.dataset.rank);
  ranked.sort((a, b) => a.dataset.rank - b.dataset.rank);
  let rank = 0;
  for (const cell of ranked) {
    if (Number(cell.parentNode.dataset.level) >= floor) rank += 1;
    cell.textContent = rank;
  }
}

function sortBy(header) {
  const table = header.closest("table");
  const index = [...header.parentNode.children].indexOf(header);
  const up = header.getAttribute("aria-sort") === "descending" || !header.hasAttribute("aria-sort") && index < 2;
  all("thead th", table).forEach((th) => th.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => row.children[index].dataset.value ?? row.children[index].textContent.trim();
  for (const group of table.tBodies) { // executions are never mixed
    const rows = all("tr:not(.execution)", group);
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // empty cells last
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en") : x - y;
      return up ? order : -order;
    });
    group.append(...rows);
  }
}

function applyColumns() {
  const off = new Set(all("#columns input").filter((box) => !box.checked).map((box) => box.value));
  for (const cell of all(".board > .scroll [data-column]")) cell.hidden = off.has(cell.dataset.column);
}

// Configurations, seeds and losses of all runs: a part for each board, packed because they are many.
async function unpackRuns() {
  const bytes = Uint8Array.from(atob(document.getElementById("packed").value), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const parts = (await new Response(stream).text()).split("\0");
  all(".runs").forEach((place, i) => place.insertAdjacentHTML("beforeend", parts[i]));
}

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const details = target && (target.matches("details") ? target : target.querySelector(":scope.claim details"));
  if (details) {
    details.open = true;
    target.scrollIntoView({ block: "nearest" });
  }
}

for (const control of [search, level, ...filters]) control.addEventListener("input", applyFilters);
for (const button of all("thead button")) button.addEventListener("click", () => sortBy(button.parentNode));
document.getElementById("columns").addEventListener("change", applyColumns);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const columns = document.getElementById("columns");
  if (event.key === "Escape") columns.open = false;
  if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName)) {
    event.preventDefault();
    search.focus();
  }
});
window.addEventListener("hashchange", openTarget);
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
document.getElementById("filters").hidden = false;
document.getElementById("theme").hidden = false;
applyFilters();
applyColumns();
unpackRuns().then(openTarget);
