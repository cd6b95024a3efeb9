// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// The panel on the right: limits with a histogram, what is shown, how it is displayed.
import { drawKind, KINDS, scoreColour } from "./marks.js";

const SLIDERS = {
  threshold: { label: "Threshold", digits: 3, step: 0.001 },
  distance: { label: "Minimum distance (Å)", digits: 1, step: 0.5 },
  border: { label: "Border (Å)", digits: 1, step: 0.5 },
  low: { label: "Local std. from", digits: 3, step: 0.001, ranged: true },
  high: { label: "Local std. to", digits: 3, step: 0.001, ranged: true },
};
const LOOKS = {
  contrast: { label: "Contrast", min: 0.4, max: 3, step: 0.05, value: 1 },
  brightness: { label: "Brightness", min: 0.4, max: 2, step: 0.05, value: 1 },
  lowPass: { label: "Low-pass (Å)", min: 0, max: 60, step: 1, value: 0 },
  flat: { label: "Even background", value: true },
  boxes: { label: "Boxes", value: false },
  inverted: { label: "Invert", value: false },
};

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function slider(name, { label, min = 0, max = 1, step }, onInput) {
  const range = element("input", { type: "range", min, max, step, id: `range-${name}` });
  const field = element("input", { type: "number", min, max, step, id: `field-${name}` });
  range.setAttribute("aria-label", label);
  range.addEventListener("input", () => onInput(Number(range.value)));
  field.addEventListener("input", () => { field.typing = true; });  // until Enter or another field: not overwritten
  field.addEventListener("blur", () => { field.typing = false; });
  field.addEventListener("change", () => { field.typing = false; if (field.value !== "" && Number.isFinite(Number(field.value))) onInput(Number(field.value)); });
  const line = element("label", { className: "line" }, label, field);
  return { range, field, box: element("div", { className: "slider" }, line, range) };
}

export class Limits {
  constructor(place, histogram, onChange) {
    this.onChange = onChange;
    this.values = null;
    this.pending = {};  // what a hand has changed, until the server has answered: values that belong together by name
    this.sliders = {};
    this.histogram = histogram;
    this.ranged = element("input", { type: "checkbox", id: "ranged" });
    this.ranged.addEventListener("change", () => this.set("ranged", this.ranged.checked));
    for (const [name, description] of Object.entries(SLIDERS)) {
      if (name === "low") place.append(element("label", { className: "line" }, "Filter by local standard deviation", this.ranged));
      this.sliders[name] = slider(name, description, value => this.set(name, name === "threshold" ? this.fromScore(value) : value));
      place.append(this.sliders[name].box);
    }
    for (const event of ["pointerdown", "pointermove"])
      histogram.addEventListener(event, pointer => {
        if (!pointer.buttons || !this.values) return;
        histogram.setPointerCapture(pointer.pointerId);
        const score = (pointer.offsetX - 2) / (histogram.clientWidth - 4);
        this.set("threshold", Math.round(Math.min(Math.max(score, 0), 1) * 1000) / 1000);
      });
    new ResizeObserver(() => this.drawHistogram()).observe(histogram);
  }

  // What the server reports; the sliders stay where a hand is moving them.
  update(summary) {
    this.counts = summary.histogram;
    this.ranges = { threshold: 1, distance: summary.ranges.distance, border: summary.ranges.border, low: summary.ranges.std, high: summary.ranges.std };
    this.first = summary.start;
    [this.low, this.high] = summary.score_range;
    this.reported = summary.limits;
    this.values = Object.assign({}, summary.limits, ...Object.values(this.pending));
    this.show();
  }

  // Scores are handled as numbers from 0 to 1; those of other pickers may be others.
  toScore(value) { return this.low + (this.high - this.low) * value; }
  fromScore(score) { return (score - this.low) / (this.high - this.low); }

  set(name, value) {
    if (!this.values) return;
    const { values } = this;
    values[name] = typeof value === "boolean" ? value : Math.min(Math.max(value, 0), this.ranges[name]);
    if (name === "low" || name === "high") {
      values.ranged = true;
      if (values.low > values.high) values[name === "low" ? "high" : "low"] = values[name];
    }
    const { low, high, ranged } = values;
    if (["low", "high", "ranged"].includes(name)) this.pending.std = { low, high, ranged };
    else this.pending[name] = { [name]: values[name] };
    this.show();
    this.send();
  }

  reset() {
    if (!this.first) return;
    this.values = { ...this.first };
    this.pending = { all: { ...this.first } };
    this.show();
    this.send();
  }

  // One request at a time, of what was changed alone: the server may know others by now. The last values win.
  async send() {
    if (this.waiting) return;
    this.waiting = true;
    while (Object.keys(this.pending).length) {
      const sent = { ...this.pending };
      await this.onChange(Object.assign({}, ...Object.values(sent)));
      for (const name of Object.keys(sent)) if (this.pending[name] === sent[name]) delete this.pending[name];
    }
    this.waiting = false;
    this.values = { ...this.reported };
    this.show();
  }

  show() {
    for (const [name, { range, field, box }] of Object.entries(this.sliders)) {
      const { digits, ranged } = SLIDERS[name], value = name === "threshold" ? this.toScore(this.values[name]) : this.values[name];
      range.min = field.min = name === "threshold" ? this.low : 0;
      range.max = field.max = name === "threshold" ? this.high : this.ranges[name];
      if (name === "threshold") range.step = field.step = 0.001 * (this.high - this.low);
      range.value = value;
      if (!field.typing) field.value = value.toFixed(digits);
      box.hidden = Boolean(ranged) && !this.values.ranged;
    }
    this.ranged.checked = this.values.ranged;
    this.drawHistogram();
  }

  drawHistogram() {
    const canvas = this.histogram, ratio = devicePixelRatio, context = canvas.getContext("2d");
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.scale(ratio, ratio);
    if (!this.counts || !this.values) return;
    const [picks, every] = this.counts, bottom = height - 15, side = (width - 4) / every.length;
    const top = Math.log1p(Math.max(...every, 1)), tall = count => (bottom - 4) * Math.log1p(count) / top;
    every.forEach((count, bin) => {
      context.fillStyle = "#3d444d";
      context.fillRect(2 + bin * side, bottom - tall(count), side - 0.6, tall(count));
      context.fillStyle = scoreColour((bin + 0.5) / every.length);
      context.fillRect(2 + bin * side, bottom - tall(picks[bin]), side - 0.6, tall(picks[bin]));
    });
    const at = 2 + (width - 4) * this.values.threshold;
    context.fillStyle = "#fff";
    context.fillRect(at - 1, 0, 2, bottom + 2);
    context.fillStyle = "#97a0aa";
    context.font = "11px system-ui, sans-serif";
    for (const score of [0, 0.25, 0.5, 0.75, 1]) {
      context.textAlign = { 0: "left", 1: "right" }[score] ?? "center";
      context.fillText(+this.toScore(score).toPrecision(3), 2 + (width - 4) * score, height - 3);
    }
  }
}

export class Legend {
  constructor(place, kinds, labels, onChange) {
    this.lines = {};
    this.shown = {};
    for (const kind of kinds) {
      const box = element("input", { type: "checkbox", checked: true, id: `show-${kind}` });
      const sample = element("canvas", { width: 52, height: 36 });
      const context = sample.getContext("2d");
      context.scale(2, 2);
      if (kind === "picked") [0.15, 0.6, 1].forEach((score, at) => drawKind(context, kind, 6 + 7 * at, 9, 5, score));
      else drawKind(context, kind, 13, 9, kind === "particle" || kind in { missed: 1, gained: 1, lost: 1 } ? 6 : 12);
      const [here, all] = [element("b"), element("b")];
      this.shown[kind] = true;
      box.addEventListener("change", () => { this.shown[kind] = box.checked; onChange(); });
      const label = labels[kind] ?? KINDS[kind].label;
      this.lines[kind] = { here, all, box, label };
      this.lines[kind].line = element("label", { className: "kind" }, box, sample,
        element("span", { textContent: label }), here, all);
      place.append(this.lines[kind].line);
    }
  }

  toggle(kinds) {
    const on = !kinds.some(kind => this.shown[kind]);
    for (const kind of kinds) if (this.lines[kind]) this.shown[kind] = this.lines[kind].box.checked = on;
  }

  show(kind, on) { this.lines[kind].line.hidden = !on; }

  count(kind, here, all = null) {
    if (!this.lines[kind]) return;
    this.lines[kind].here.textContent = here ?? "";
    this.lines[kind].all.textContent = all?.toLocaleString("en") ?? "";
  }
}

export class Display {
  constructor(place, { has_score_maps: hasScoreMaps, diameter, boxes }, onChange) {
    this.values = {};
    this.inputs = {};
    this.onChange = onChange;
    const lowPass = { ...LOOKS.lowPass, max: Math.ceil(diameter / 3), value: Math.round(diameter / 15) };
    const looks = { ...LOOKS, lowPass, boxes: { ...LOOKS.boxes, value: boxes }, ...(hasScoreMaps ? { scoreMap: { label: "Score map", value: false } } : {}) };
    for (const [name, look] of Object.entries(looks)) {
      this.values[name] = look.value;
      if (typeof look.value === "boolean") {
        const box = element("input", { type: "checkbox", checked: look.value, id: `look-${name}` });
        box.addEventListener("change", () => this.set(name, box.checked));
        this.inputs[name] = value => { box.checked = value; };
        place.append(element("label", { className: "line" }, look.label, box));
      } else {
        const made = slider(name, look, value => this.set(name, Math.min(Math.max(value, look.min), look.max)));
        this.inputs[name] = value => { made.range.value = value; made.field.value = value; };
        this.inputs[name](look.value);
        place.append(made.box);
      }
    }
  }

  set(name, value) {
    this.values[name] = value;
    this.inputs[name](value);
    this.onChange(name);
  }
}
