// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// The list of micrographs: as many elements as rows in sight, whatever the number of micrographs.

const HEIGHT = 28, SPARE = 4;
const COLUMNS = { name: "Micrograph", picks: "Picks", score: "Score" }, fixed = value => value?.toFixed(2) ?? "";

export class List {
  constructor(element, onSelect) {
    this.element = element;
    this.onSelect = onSelect;
    this.rows = element.querySelector("#rows");
    this.sheet = element.querySelector("#sheet");
    this.search = element.querySelector("#search");
    this.sorted = { by: "", down: false };
    this.current = -1;
    this.order = [];
    this.pool = [];
    this.rows.addEventListener("scroll", () => this.draw());
    this.search.addEventListener("input", () => this.arrange());
    new ResizeObserver(() => this.draw()).observe(this.rows);
  }

  start({ names, defocus, has_reference: compared }) {
    Object.assign(this, { names, defocus, figures: {} });
    this.columns = { ...COLUMNS, ...(compared ? { f1: "F1" } : {}), ...(defocus ? { defocus: "Def." } : {}) };
    document.querySelector("main").style.setProperty("--columns", Object.keys(this.columns).length - 1);
    const head = this.element.querySelector("#headings");
    const line = document.createElement("div");
    line.className = "row";
    line.append(this.heading("state", ""), ...Object.entries(this.columns).map(([key, text]) => this.heading(key, text)));
    head.replaceChildren(line);
  }

  heading(key, text) {
    const button = document.createElement("button");
    button.className = key;
    button.dataset.key = key;
    button.textContent = text || "•";
    button.title = { state: "Sort: outliers and failures first, then those not done", defocus: "Sort by defocus (µm)" }[key] ?? `Sort by ${text.toLowerCase()}`;
    button.addEventListener("click", () => this.sort(key));
    return button;
  }

  update(summary) {
    this.summary = summary;
    if (this.order.length !== this.names.length || this.search.value || this.sorted.by) this.arrange(); else this.draw();
  }

  // Figures of each micrograph by its number.
  setFigures(figures) {
    this.figures = figures;
    this.arrange();
  }

  sort(key) {
    this.sorted = { by: key, down: this.sorted.by === key ? !this.sorted.down : !["name", "f1", "defocus"].includes(key) };
    for (const button of this.element.querySelectorAll("#headings button")) {
      const own = button.dataset.key === key;
      button.toggleAttribute("aria-sort", own);
      if (own) button.setAttribute("aria-sort", this.sorted.down ? "descending" : "ascending");
      const text = this.columns[button.dataset.key] ?? "•";
      button.textContent = own && button.dataset.key !== "state" ? `${text} ${this.sorted.down ? "▾" : "▴"}` : text;
    }
    this.arrange();
    this.reveal();
  }

  key(number) {
    const { picks, scores, outliers, status, done } = this.summary;
    return { name: number, picks: picks[number], score: scores[number] ?? -1, f1: this.figures[number]?.F1 ?? 2, defocus: this.defocus?.[number] ?? (this.sorted.down ? -1 : Infinity),
      state: (outliers[number] || status[number] === 2 ? 2 : 0) + (done[number] ? 0 : 1) }[this.sorted.by];
  }

  arrange() {
    const words = this.search.value.toLowerCase().trim();
    if (!this.summary) return;
    this.order = this.names.map((_, number) => number);
    if (words === "done" || words === "outlier" || words === "failed")
      this.order = this.order.filter(number => ({ done: this.summary.done[number], outlier: this.summary.outliers[number],
        failed: this.summary.status[number] === 2 })[words]);
    else if (words) this.order = this.order.filter(number => this.names[number].toLowerCase().includes(words));
    if (this.sorted.by) {
      const sign = this.sorted.down ? -1 : 1, keys = new Map(this.order.map(number => [number, this.key(number)]));
      this.order.sort((a, b) => sign * (keys.get(a) - keys.get(b)) || a - b);
    }
    this.sheet.style.height = `${this.order.length * HEIGHT}px`;
    this.draw();
  }

  draw() {
    if (!this.summary) return;
    const first = Math.max(0, Math.floor(this.rows.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(this.order.length, first + Math.ceil(this.rows.clientHeight / HEIGHT) + 2 * SPARE);
    while (this.pool.length < last - first) this.pool.push(this.row());
    this.pool.forEach((row, at) => {
      row.hidden = first + at >= last;
      if (!row.hidden) this.fill(row, this.order[first + at], first + at);
    });
  }

  row() {
    const row = document.createElement("div");
    row.innerHTML = '<i class="dot"></i><span class="name"></span>' + "<span></span>".repeat(Object.keys(this.columns).length - 1);
    row.setAttribute("role", "option");
    row.addEventListener("click", () => this.onSelect(Number(row.dataset.number)));
    this.sheet.append(row);
    return row;
  }

  fill(row, number, place) {
    const { picks, scores, status, outliers, done, particles, negatives } = this.summary;
    const state = { done: done[number], touched: particles[number] + negatives[number], odd: outliers[number],
      failed: status[number] === 2, waiting: status[number] === 0, current: number === this.current };
    row.className = ["row", ...Object.keys(state).filter(key => state[key])].filter(Boolean).join(" ");
    row.style.top = `${place * HEIGHT}px`;
    row.dataset.number = number;
    row.setAttribute("aria-selected", number === this.current);
    const compared = this.figures[number], defocus = this.defocus?.[number];
    row.title = [this.names[number], outliers[number], done[number] && "done", defocus != null && `defocus ${fixed(defocus)} µm`, compared && `precision ${fixed(compared.precision)}, recall ${fixed(compared.recall)}, `
      + `${compared.truth - compared.true_positives} missed, ${compared.picks - compared.true_positives} false positives`].filter(Boolean).join("\n");
    const texts = { name: this.names[number], picks: status[number] === 2 ? "failed" : status[number] || picks[number] ? String(picks[number]) : "…",
      score: fixed(scores[number]), f1: fixed(compared?.F1), defocus: fixed(defocus) };
    Object.keys(this.columns).forEach((key, at) => { const place = row.children[at + 1]; if (place.textContent !== texts[key]) place.textContent = texts[key]; });
  }

  select(number) {
    this.current = number;
    this.draw();
    this.reveal();
  }

  reveal() {
    const place = this.order.indexOf(this.current);
    if (place < 0) return;
    const top = place * HEIGHT, seen = this.rows.clientHeight;
    if (top < this.rows.scrollTop) this.rows.scrollTop = top;
    else if (top + HEIGHT > this.rows.scrollTop + seen) this.rows.scrollTop = top + HEIGHT - seen;
  }

  // The micrograph a number of lines further down.
  neighbour(lines) {
    const place = this.order.indexOf(this.current);
    if (!this.order.length) return -1;
    return this.order[Math.min(Math.max(place < 0 ? 0 : place + lines, 0), this.order.length - 1)];
  }
}
