"use strict";

// Sort and search in tables, copy a command, tell a number of a heat map. Without scripts everything is still readable.

const collator = new Intl.Collator("en", { numeric: true });

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const text = (row) => row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) => collator.compare(text(a), text(b)) * (down ? -1 : 1));
      body.append(...rows);
    });
  });
}

function makeSearchable(input) {
  const box = input.closest(".search");
  const rows = [...box.nextElementSibling.querySelector("tbody").rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const found = box.querySelector("[data-found]");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !words.every((word) => texts[place].includes(word));
      shown += !row.hidden;
    });
    found.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
}

function makeCopying(button) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
    }
  });
}

function tellCosines(picture) {
  const cosines = atob(picture.dataset.cosines);
  const steps = picture.dataset.steps.split(",");
  const told = picture.parentElement.querySelector("[data-told]");
  picture.addEventListener("pointermove", (event) => {
    const at = (offset, size) => Math.min(steps.length - 1, Math.max(0, Math.floor((offset / size) * steps.length)));
    const column = at(event.offsetX, picture.clientWidth);
    const row = at(event.offsetY, picture.clientHeight);
    const cosine = (cosines.charCodeAt(row * steps.length + column) / 255) * 2 - 1;
    told.textContent = `steps ${steps[row]} and ${steps[column]}: ${cosine.toFixed(2)}`;
  });
}

document.querySelectorAll("table[data-sort]").forEach(makeSortable);
document.querySelectorAll("[data-search]").forEach(makeSearchable);
document.querySelectorAll("[data-copy]").forEach(makeCopying);
document.querySelectorAll("[data-cosines]").forEach(tellCosines);
