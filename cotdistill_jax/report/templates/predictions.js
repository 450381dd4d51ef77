"use strict";
// Filters, sorts and pages the predictions. Everything from the data reaches the page through textContent.
(() => {
  const element = document.getElementById("prediction-data");
  if (!element) return;
  const data = JSON.parse(element.textContent);
  const byId = (id) => document.getElementById(id);

  const rows = data.rows.map((row) => {
    const [set, question, sample, text, logProb, count, finished, extracted, correct, tokens] = row;
    const { step, benchmark, prompt, rules: used, headline } = data.sets[set];
    const [id, asked, gold] = data.questions[question];
    const right = used.filter((rule) => correct & (1 << rule)).length;
    return {
      id: sample ? `${id} #${sample}` : id, step, benchmark, prompt, asked, gold, text, logProb, tokens: count, pieces: tokens,
      extracted, correct, used, answer: extracted[headline], finished, disagree: right > 0 && right < used.length,
      verdict: Boolean(correct & (1 << headline)), haystack: `${id}\n${asked}\n${text}`.toLowerCase(),
    };
  });

  const fill = (id, values) => {
    for (const value of ["", ...new Set(values)]) {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = value === "" ? "all" : value;
      byId(id).append(option);
    }
  };
  for (const field of ["benchmark", "prompt"]) fill(field, data.sets.map((set) => set[field]));
  fill("step", data.sets.map((set) => String(set.step)));

  const tests = {
    "": () => true, right: (r) => r.verdict, wrong: (r) => !r.verdict, none: (r) => r.answer === null,
    disagree: (r) => r.disagree, cut: (r) => !r.finished,
  };
  const order = new Intl.Collator("en", { numeric: true }).compare;
  let sorting = { field: "id", down: false };
  let shown = rows;
  let page = 0;

  const compare = (a, b) => {
    const [x, y] = [a[sorting.field], b[sorting.field]];
    if (x === null || y === null) return (x === null) - (y === null); // missing values last, whichever the direction
    const result = typeof x === "string" ? order(x, y) : x - y;
    return sorting.down ? -result : result;
  };

  const select = () => {
    const words = byId("search").value.toLowerCase();
    const [benchmark, prompt, step] = ["benchmark", "prompt", "step"].map((id) => byId(id).value);
    const test = tests[byId("verdict").value];
    shown = rows.filter((r) => (!benchmark || r.benchmark === benchmark) && (!prompt || r.prompt === prompt)
      && (!step || String(r.step) === step) && test(r) && (!words || r.haystack.includes(words)));
    shown.sort(compare);
    page = 0;
    draw();
  };

  const make = (tag, text, kind) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };

  const coloured = (r) => {
    if (!r.pieces) return make("div", r.text, "tokens");
    const node = make("div", undefined, "tokens");
    for (let i = 0; i < r.pieces.length; i += 2) {
      const [piece, thousandths] = [r.pieces[i], r.pieces[i + 1]];
      const span = make("span", piece);
      if (thousandths !== null) {
        span.style.backgroundColor = `rgba(213, 94, 0, ${(0.7 * (1 - thousandths / 1000)).toFixed(3)})`;
        span.title = `probability ${(thousandths / 1000).toFixed(3)}`;
      }
      node.append(span);
    }
    return node;
  };

  const details = (r) => {
    const cell = make("td");
    cell.colSpan = 9;
    cell.append(make("h3", "Question"), make("div", r.asked, "tokens"), make("h3", `Text (gold ${r.gold})`), coloured(r), make("h3", "Rules"));
    const list = make("dl");
    for (const rule of r.used) {
      const right = Boolean(r.correct & (1 << rule));
      const read = r.extracted[rule] === null ? "reads no answer" : `reads ${r.extracted[rule]}`;
      list.append(make("dt", data.rules[rule]), make("dd", `${right ? "✓ right" : "✗ wrong"}, ${read}`, right ? "right" : "wrong"));
    }
    cell.append(list);
    const line = make("tr", undefined, "details");
    line.append(cell);
    return line;
  };

  const drawRow = (r) => {
    const line = make("tr", undefined, "row");
    line.append(make("td", r.id), make("td", r.step, "number"), make("td", r.prompt), make("td", r.gold), make("td", r.answer ?? "–"),
      make("td", r.verdict ? "✓ right" : "✗ wrong", r.verdict ? "right" : "wrong"),
      make("td", r.logProb === null ? "–" : r.logProb.toFixed(2), "number"), make("td", r.tokens ?? "–", "number"));
    const text = make("td", undefined, "text");
    text.append(r.text.length > 400 ? make("div", `${r.text.slice(0, 400)} …`) : coloured(r));
    line.append(text);
    line.addEventListener("click", () => {
      const next = line.nextElementSibling;
      if (next && next.className === "details") next.remove();
      else line.after(details(r));
    });
    return line;
  };

  const draw = () => {
    const size = Number(byId("page-size").value);
    const pages = Math.max(1, Math.ceil(shown.length / size));
    const body = document.querySelector("#predictions tbody");
    body.replaceChildren(...shown.slice(page * size, (page + 1) * size).map(drawRow));
    byId("position").textContent = `page ${page + 1} of ${pages}, ${shown.length} of ${rows.length} predictions`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page + 1 >= pages;
    for (const button of document.querySelectorAll("#predictions button[data-sort]")) {
      const sorted = button.dataset.sort === sorting.field;
      button.parentElement.setAttribute("aria-sort", sorted ? (sorting.down ? "descending" : "ascending") : "none");
      button.textContent = button.textContent.replace(/ [▲▼]$/, "") + (sorted ? (sorting.down ? " ▼" : " ▲") : "");
    }
  };

  for (const id of ["benchmark", "prompt", "step", "verdict", "page-size"]) byId(id).addEventListener("change", select);
  byId("search").addEventListener("input", select);
  byId("previous").addEventListener("click", () => { page -= 1; draw(); });
  byId("next").addEventListener("click", () => { page += 1; draw(); });
  for (const button of document.querySelectorAll("#predictions button[data-sort]")) {
    button.addEventListener("click", () => {
      const field = button.dataset.sort;
      sorting = { field, down: sorting.field === field && !sorting.down };
      select();
    });
  }
  select();
})();
