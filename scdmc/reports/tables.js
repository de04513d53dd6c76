"use strict";
// Tables that sort, filter and save themselves as CSV. Without this script they are plain tables.
for (const table of document.querySelectorAll(".wide > table")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  if (rows.length < 2) continue;
  const headings = [...table.tHead.rows[0].cells];
  const number = (text) => parseFloat(text.replace(/[,%±]/g, ""));

  // A column of a turned table holds different scores: their order would say nothing.
  const sorted = table.parentElement.classList.contains("turned") ? [] : headings;
  sorted.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    // With its nodes, not its text: they say where a long name may break.
    button.append(...(heading.textContent ? heading.childNodes : ["name"]));
    heading.replaceChildren(button);
    button.onclick = () => {
      // Numbers start with the largest, text with A; a second click turns the order round.
      const isNumber = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const rises = before ? before === "descending" : !isNumber;
      const value = (row) => row.cells[column].textContent;
      const compare = isNumber
        ? (a, b) => number(value(a)) - number(value(b))
        : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
      // A dash, "nothing", stays last in both orders.
      const known = rows.filter((row) => value(row) !== "–").sort((a, b) => (rises ? compare(a, b) : compare(b, a)));
      body.replaceChildren(...known, ...rows.filter((row) => value(row) === "–"));
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", rises ? "ascending" : "descending");
    };
  });

  const tools = document.createElement("div");
  tools.className = "tools";
  if (rows.length > 12) {
    const filter = document.createElement("input");
    filter.type = "search";
    filter.placeholder = "Filter rows";
    filter.setAttribute("aria-label", "Filter rows");
    filter.oninput = () => {
      const wanted = filter.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    };
    tools.append(filter);
  }
  const save = document.createElement("button");
  save.type = "button";
  save.textContent = "Save as CSV";
  save.onclick = () => {
    // A text that begins like a formula gets an apostrophe, so that no spreadsheet computes it.
    const safe = (text) => (/^[=+\-@\t\r]/.test(text) && isNaN(text) ? "'" + text : text);
    const line = (cells) => cells.map((cell) => '"' + safe(cell.textContent).replace(/"/g, '""') + '"').join(",");
    const shown = [...body.rows].filter((row) => !row.hidden);
    const text = [headings, ...shown.map((row) => [...row.cells])].map(line).join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "table.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  };
  tools.append(save);
  table.parentElement.before(tools);
}
