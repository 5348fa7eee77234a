"use strict";
// Filters the matrix and the verdicts, and shows a cell's verdict beside it. All there is to read is in the page.
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const plain = (text) => text.toLowerCase().replaceAll("_", " ");

  const grid = one("#grid");
  const form = one("#filters");
  const wanted = form.elements;
  const runs = all(".runs th[data-name]", grid);
  const articles = all("article");
  const lines = all(".model tr:not(.head)", grid).map((row, index) => ({
    row,
    article: articles[index],
    group: row.parentNode,
    model: row.parentNode.dataset.model,
    check: one("code", articles[index]).textContent,
    clauses: one("i", row).textContent.split(" "),
  }));
  // The first letter of a cell's class; what passed has none, but at the edge between the sides.
  const verdict = (cell) => cell.className[0] ?? "p";
  const words = (line) => (line.words ??= plain(`${line.model} ${line.article.textContent}`));

  // Columns of other environments are left out, in every row alike.
  const chooseRuns = () => {
    const value = wanted.environment.value;
    const chosen = runs.map((run) => !value || value === run.dataset.side || value === "=" + run.dataset.name);
    for (const row of grid.rows) {
      if (row.className !== "sides") chosen.forEach((shown, at) => { row.cells[at + 1].hidden = !shown; });
    }
    const sides = [...new Set(runs.map((run) => run.dataset.side))];
    sides.forEach((side, at) => {
      const head = grid.rows[0].cells[at + 1];
      head.colSpan = runs.filter((run, position) => run.dataset.side === side && chosen[position]).length || 1;
      head.hidden = !runs.some((run, position) => run.dataset.side === side && chosen[position]);
    });
    return chosen;
  };

  const filter = () => {
    const chosen = chooseRuns();
    const text = plain(wanted.text.value.trim());
    const [only, model, check] = [wanted.verdict.value, wanted.model.value, wanted.check.value];
    const groups = new Set();
    let count = 0;
    for (const line of lines) {
      const cells = [...line.row.cells].slice(1).filter((cell, at) => chosen[at] && cell.firstElementChild);
      cells.forEach((cell) => cell.toggleAttribute("data-lit", only.includes(verdict(cell))));
      const shown = cells.some((cell) => !only || only.includes(verdict(cell)))
        && (!model || line.model === model)
        && (!check || line.check === check || line.clauses.includes(check))
        && (!text || words(line).includes(text));
      line.row.hidden = line.article.hidden = !shown;
      if (shown) { count += 1; groups.add(line.group); }
    }
    const narrowed = Boolean(text || only || model || check);
    grid.toggleAttribute("data-only", Boolean(only));
    one(".clauses", grid).hidden = narrowed;
    all(".model", grid).forEach((group) => {
      group.hidden = !groups.has(group);
      group.classList.toggle("open", narrowed);
    });
    all("details.model").forEach((details) => { details.hidden = !one("article:not([hidden])", details); });
    one("output", form).value = count
      ? `${count} of ${lines.length} checks on ${groups.size} model${groups.size === 1 ? "" : "s"}`
      : "nothing is like that";
  };

  form.addEventListener("input", filter);
  one("[type=reset]", form).addEventListener("click", (event) => {
    event.preventDefault();
    form.reset();
    filter();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  wanted.all.addEventListener("click", () => {
    const open = wanted.all.textContent === "open all";
    all("input", grid).forEach((box) => { box.checked = open; });
    wanted.all.textContent = open ? "close all" : "open all";
  });

  const drawer = one("#drawer");
  let from = null;
  const close = () => {
    drawer.hidden = true;
    from?.classList.remove("open");
    from?.focus();
    from = null;
  };
  const show = (link) => {
    from?.classList.remove("open");
    from = link;
    from.classList.add("open");
    const entry = document.getElementById(link.hash.slice(1));
    const copy = entry.closest("article").cloneNode(true);
    copy.hidden = false;
    one("h3", copy).prepend(one("summary b", entry.closest("details")).textContent, " ");
    one("#" + entry.id, copy).classList.add("chosen");
    // What is written once in the page is put in full where it is read.
    for (const same of all("a.same", copy)) {
      const home = document.getElementById(same.hash.slice(1));
      const whole = same.closest("li") ? one("p", home) : home.parentNode.nextElementSibling;
      same.parentNode.replaceWith(whole.cloneNode(true));
    }
    // First what was asked for and how to see it again, then what other runs found.
    const chosen = one(".chosen", copy);
    const list = document.createElement("ul");
    const rest = document.createElement("details");
    const after = chosen.parentNode.nextElementSibling;
    const again = after?.matches("pre") ? after.cloneNode(true) : "";
    list.append(chosen);
    rest.append(Object.assign(document.createElement("summary"), { textContent: "what other runs found" }));
    rest.append(...[...copy.children].slice(1));
    copy.append(list, again, ...(one("li", rest) ? [rest] : []));
    all("[id]", copy).forEach((item) => item.removeAttribute("id"));
    one("div", drawer).replaceChildren(copy);
    drawer.hidden = false;
    drawer.scrollTop = 0;
  };
  grid.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(link);
  });
  one("button", drawer).addEventListener("click", close);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && from) close(); });

  form.hidden = false;
  filter();
})();
