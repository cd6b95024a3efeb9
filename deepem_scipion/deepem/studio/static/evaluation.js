// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// The picks against reference coordinates: figures, precision and recall, and F-scores against the threshold.
import { get } from "./api.js";

const COLOURS = ["#f6b73c", "#56b4e9", "#46d39a", "#ff8a65", "#cc79a7"];
const WAIT_MS = 300, LEFT = 26, BOTTOM = 28, TOP = 8, RIGHT = 8;

export class Evaluation {
  // `onThreshold` is called with a threshold, `onFigures` with all figures.
  constructor(section, onThreshold, onFigures) {
    Object.assign(this, { section, onThreshold, onFigures, found: null, threshold: 0 });
    [this.curve, this.scores] = section.querySelectorAll("canvas");
    for (const event of ["pointerdown", "pointermove"])
      this.scores.addEventListener(event, pointer => {
        if (!pointer.buttons || !this.found) return;
        this.scores.setPointerCapture(pointer.pointerId);
        const share = (pointer.offsetX - LEFT) / (this.scores.clientWidth - LEFT - RIGHT);
        onThreshold(Math.round(Math.min(Math.max(share, 0), 1) * 1000) / 1000);
      });
    section.querySelector("button").addEventListener("click", () => {
      const best = this.found?.overall.best_F1.threshold;
      if (best != null) onThreshold(best);
    });
    new ResizeObserver(() => this.draw()).observe(section);
  }

  // Ask for the figures once nothing has changed for a moment.
  update({ limits, score_range: scoreRange }) {
    this.threshold = limits.threshold;
    this.scoreRange = scoreRange;
    this.draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), WAIT_MS);
  }

  async ask() {
    try { this.found = await get("evaluation"); } catch { return; }
    this.onFigures(this.found);
    this.draw();
  }

  shown(threshold) {
    const [low, high] = this.scoreRange;
    return (low + (high - low) * threshold).toFixed(3);
  }

  draw() {
    if (!this.found) return;
    const { overall, curves } = this.found, fixed = value => value.toFixed(3);
    const [figures, ...others] = this.section.querySelectorAll("p");
    figures.textContent = `Precision ${fixed(overall.precision)}, recall ${fixed(overall.recall)}, F1 ${fixed(overall.F1)}, `
      + `F2 ${fixed(overall.F2)}: ${overall.true_positives} of ${overall.truth} particles, `
      + `${overall.picks - overall.true_positives} false positives.`;
    const best = overall.best_F1;
    others[0].textContent = best.threshold === null ? "" : `Average precision ${fixed(overall.AP)}; best F1 ${fixed(best.F1)} at ${this.shown(best.threshold)}, `
      + `best F2 ${fixed(overall.best_F2.F2)} at ${this.shown(overall.best_F2.threshold)}.`;
    const names = this.section.querySelector("#curves");
    names.replaceChildren(...curves.length < 2 ? [] : curves.map(({ label, AP }, at) => {
      const line = document.createElement("div"), sample = document.createElement("i");
      sample.style.setProperty("background", COLOURS[at % COLOURS.length]);
      line.append(sample, `${label || "these picks"}: average precision ${fixed(AP)}`);
      return line;
    }));
    this.drawCurves(this.curve, "recall", "precision", curves.map(each => [each.recall, each.precision]));
    this.drawCurves(this.scores, "threshold", "F1 (line), F2 (dashed)", [[curves[0].threshold, curves[0].F1], [curves[0].threshold, curves[0].F2]],
      [1, 5], this.threshold);
  }

  drawCurves(canvas, xLabel, yLabel, lines, dashes = [], threshold = null) {
    const ratio = devicePixelRatio, context = canvas.getContext("2d"), width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.scale(ratio, ratio);
    const x = value => LEFT + (width - LEFT - RIGHT) * value, y = value => TOP + (height - TOP - BOTTOM) * (1 - value);
    this.drawAxes(context, x, y, xLabel, yLabel, height);
    lines.forEach(([xs, ys], at) => {
      context.strokeStyle = COLOURS[dashes.length ? 0 : at % COLOURS.length];
      context.lineWidth = 1.8;
      context.setLineDash(dashes[at] > 1 ? [dashes[at], 3] : []);
      context.beginPath();
      xs.forEach((value, index) => context.lineTo(x(value), y(ys[index])));
      context.stroke();
      if (xs.length === 1) context.fillRect(x(xs[0]) - 2.5, y(ys[0]) - 2.5, 5, 5);
    });
    context.setLineDash([]);
    context.fillStyle = context.strokeStyle = "#fff";
    if (threshold !== null) context.fillRect(x(threshold) - 1, TOP, 2, height - TOP - BOTTOM);
    else if (this.found.overall.picks) {
      context.beginPath();
      context.arc(x(this.found.overall.recall), y(this.found.overall.precision), 3.5, 0, 7);
      context.fill();
    }
  }

  drawAxes(context, x, y, xLabel, yLabel, height) {
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = "#97a0aa";
    context.strokeStyle = "#2b3036";
    context.lineWidth = 1;
    for (const value of [0, 0.5, 1]) {
      context.strokeRect(x(0), y(value), x(1) - x(0), 0);
      context.textAlign = "right";
      context.fillText(value, x(0) - 5, y(value) + 4);
      context.textAlign = ["left", "center", "right"][2 * value];
      context.fillText(xLabel === "threshold" ? +this.shown(value) : value, x(value), height - BOTTOM + 13);
    }
    context.textAlign = "center";
    context.fillText(xLabel, x(0.5), height - 2);
    context.textAlign = "left";
    context.fillText(yLabel, x(0) + 4, y(0) - 5);
  }
}
