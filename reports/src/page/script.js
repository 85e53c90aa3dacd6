"use strict";
// Everything can be read without this: it adds sorting, a choice of arms, and opens what is folded for print.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  for (const table of all("table.samples")) {
    all("thead th[data-key]", table).forEach((head) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => {
          const text = row.dataset[head.dataset.key];
          return text === undefined || text === "" ? Infinity : Number(text);
        };
        for (const body of all("tbody", table)) {
          const rows = all("tr[data-arm]", body);
          rows.sort((a, b) => {
            const [x, y] = [value(a), value(b)];
            if (x === y) return 0;
            if (x === Infinity || y === Infinity) return x === Infinity ? 1 : -1;
            return up ? x - y : y - x;
          });
          body.append(...rows);
        }
      });
    });
  }
  const filter = document.querySelector(".filter");
  if (filter) {
    const labels = new Map();
    all("table.samples tr[data-arm]").forEach((row) => {
      if (!labels.has(row.dataset.arm)) labels.set(row.dataset.arm, row.dataset.label);
    });
    const title = document.createElement("span");
    title.textContent = "Arms in the tables:";
    filter.append(title);
    for (const [arm, name] of labels) {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => {
        all("table.samples tr[data-arm]").forEach((row) => {
          if (row.dataset.arm === arm) row.hidden = !box.checked;
        });
      });
      label.append(box, document.createTextNode(name));
      filter.append(label);
    }
    filter.hidden = false;
  }
  addEventListener("beforeprint", () => all("details").forEach((d) => { d.open = true; }));
})();
