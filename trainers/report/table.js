// The table of a page: rows come from files that this script loads, one after another, and every text is set as text.
"use strict";
const table = JSON.parse(document.getElementById("table").textContent);
const PAGE = 100;
const rows = [];
const shown = { rows: [], from: 0, sort: null, down: false };
const find = (id) => document.getElementById(id);

function element(name, attributes, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const chosen = table.columns.map((column, place) => {
  if (!column.choose) return null;
  const select = element("select", {});
  select.append(element("option", { value: "" }, "all"));
  const label = element("label", {}, column.title + " ");
  label.append(select);
  find("controls").append(label);
  select.addEventListener("change", update);
  return { select, place, known: new Set() };
}).filter(Boolean);

const heads = table.columns.map((column, place) => {
  const head = element("th", { scope: "col", class: column.kind === "number" ? "n" : "" });
  const button = element("button", { type: "button" }, column.title);
  button.addEventListener("click", () => {
    shown.down = shown.sort === place ? !shown.down : column.kind === "number";
    shown.sort = place;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", shown.down ? "descending" : "ascending");
    update();
  });
  head.append(button);
  return head;
});

function compare(a, b) {
  const [x, y] = [a[shown.sort], b[shown.sort]];
  if (x === y) return 0;
  if (x === null || x === "") return 1; // what is unknown comes last, whatever the order
  if (y === null || y === "") return -1;
  const order = typeof x === "number" ? x - y : x < y ? -1 : 1;
  return shown.down ? -order : order;
}

function update() {
  const words = find("search").value.toLowerCase();
  const wanted = chosen.filter((one) => one.select.value !== "");
  const count = table.columns.length;
  shown.rows = rows.filter((row) => wanted.every((one) => row[one.place] === one.select.value.slice(1))
    && (!words || row.slice(0, count).some((value) => value !== null && String(value).toLowerCase().includes(words))));
  if (shown.sort !== null) shown.rows.sort(compare);
  shown.from = 0;
  draw();
}

function draw() {
  const until = Math.min(shown.from + PAGE, shown.rows.length);
  find("rows").tBodies[0].replaceChildren(...shown.rows.slice(shown.from, until).map(line));
  const loaded = rows.length < table.count ? `, ${rows.length} of ${table.count} loaded` : "";
  find("status").textContent = `${shown.rows.length} of ${rows.length} questions${loaded}`;
  find("place").textContent = shown.rows.length ? `${shown.from + 1} to ${until}` : "none";
  find("before").disabled = shown.from === 0;
  find("after").disabled = until === shown.rows.length;
}

function line(row) {
  const made = element("tr", {});
  table.columns.forEach((column, place) => {
    const cell = element("td", { "data-title": column.title, class: column.kind === "number" ? "n" : "" });
    const value = row[place];
    if (place === 0 && row[table.columns.length] !== null) {
      cell.append(element("a", { href: `#panel-${row[table.columns.length]}` }, value));
    } else if (value !== null) {
      cell.textContent = column.kind === "number" ? value.toFixed(2) : value;
    }
    if (place === table.verdict) cell.classList.add(...({ right: ["good"], wrong: ["bad"] }[value] || []));
    made.append(cell);
  });
  return made;
}

function addRows(more) { // called by the files
  rows.push(...more);
  for (const one of chosen) {
    for (const row of more) one.known.add(row[one.place]);
    const value = one.select.value;
    const options = [...one.known].sort().map((text) => element("option", { value: "=" + text }, text || "(none)"));
    one.select.replaceChildren(element("option", { value: "" }, "all"), ...options);
    one.select.value = value;
  }
}

function load(number) {
  if (number === table.files.length) return;
  const script = element("script", { src: table.files[number] });
  script.addEventListener("load", () => { update(); load(number + 1); });
  script.addEventListener("error", () => { find("status").textContent = `${table.files[number]} cannot be loaded`; });
  document.body.append(script);
}

const top_row = element("tr", {});
top_row.append(...heads);
find("rows").tHead.append(top_row);
find("controls").addEventListener("submit", (event) => event.preventDefault());
find("search").addEventListener("input", update);
find("before").addEventListener("click", () => { shown.from = Math.max(0, shown.from - PAGE); draw(); });
find("after").addEventListener("click", () => { shown.from += PAGE; draw(); });
for (const button of document.querySelectorAll("[data-choose]")) {
  button.addEventListener("click", () => {
    const one = chosen.find((other) => other.place === table.verdict);
    one.select.value = "=" + button.dataset.choose;
    update();
  });
}
draw();
load(0);
