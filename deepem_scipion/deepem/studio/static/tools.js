// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// Mouse, pen and fingers on the micrograph.

const CLICK_PX = 4, STROKE_STEP_PX = 4, FINGER_MS = 450;
const COLOURS = { erase: "#ff6b6b", paint: "#46d39a", region: "#e4e7ea", measure: "#f6b73c", move: "#46d39a" };

export class Tools {
  // `act` is called with an edit, `hover` with a place of the micrograph or null, `at` finds the circle at a place.
  constructor(canvas, viewer, { act, measure, hover, at, redraw, diameter, editable }) {
    Object.assign(this, { canvas, viewer, act, measure, hover, at, redraw, diameter, editable });
    this.tool = "point";
    this.stroke = null;
    this.pointers = new Map();
    this.brushDiameters = 1.5;
    canvas.addEventListener("contextmenu", event => event.preventDefault());
    canvas.addEventListener("pointerdown", event => this.down(event));
    canvas.addEventListener("pointermove", event => this.moved(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => this.up(event));
    canvas.addEventListener("pointerleave", () => { this.place = null; hover(null); redraw(); });
    canvas.addEventListener("dblclick", event => { if (this.tool === "point" && !this.lastActed) this.viewer.fit(); event.preventDefault(); });
    canvas.addEventListener("wheel", event => this.wheel(event), { passive: false });
  }

  get brushed() { return this.tool === "erase" || this.tool === "paint"; }

  // The brush on the screen, where one is in hand.
  get brush() {
    if (!this.brushed || !this.place || !this.editable()) return null;
    return { x: this.place[0], y: this.place[1], radius: this.brushRadius * this.viewer.zoom };
  }

  get brushRadius() { return this.brushDiameters * this.diameter() / 2; }

  select(tool) {
    this.tool = tool;
    this.stroke = null;
    for (const button of document.querySelectorAll("#tools [data-tool]"))
      button.setAttribute("aria-pressed", button.dataset.tool === tool);
    this.redraw();
  }

  resizeBrush(factor) {
    this.brushDiameters = Math.min(Math.max(this.brushDiameters * factor, 0.5), 20);
    this.redraw();
  }

  wheel(event) {
    event.preventDefault();
    const steps = event.deltaY / (event.deltaMode ? 3 : 100);
    if (event.shiftKey && this.brushed) this.resizeBrush(1.15 ** -Math.sign(steps || event.deltaX));
    else this.viewer.zoomAt(1.25 ** -Math.max(-3, Math.min(3, steps)), event.offsetX, event.offsetY);
  }

  down(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (this.pointers.size > 1) { this.press = this.stroke = null; return; }
    const here = [event.offsetX, event.offsetY], point = this.viewer.toMicrograph(...here);
    this.press = { number: this.viewer.shown?.number, here, point, button: event.button, last: here, moved: false, time: event.timeStamp, touch: event.pointerType === "touch" };
    if (event.button !== 0 || !this.editable() || event.ctrlKey) return;
    if (this.brushed) this.stroke = { kind: "line", points: [point], radius: this.brushRadius, colour: COLOURS[this.tool] };
    else if (this.tool === "region") this.stroke = { kind: "rectangle", points: [point, point], colour: COLOURS.region };
    else if (this.tool === "measure") this.stroke = { kind: "circle", points: [point, point], colour: COLOURS.measure };
    else if (!this.press.touch && this.at(...point)) this.press.held = true;
    this.redraw();
  }

  moved(event) {
    const here = [event.offsetX, event.offsetY], point = this.viewer.toMicrograph(...here);
    this.place = here;
    if (this.pointers.size === 2 && this.pointers.has(event.pointerId)) { this.pinch(event.pointerId, here); return; }
    const { press, stroke } = this;
    if (!press || !this.pointers.has(event.pointerId)) {
      this.hover(point);
      if (this.brushed) this.redraw();
      return;
    }
    press.moved ||= Math.hypot(here[0] - press.here[0], here[1] - press.here[1]) > CLICK_PX;
    if (stroke?.kind === "line") {
      const last = this.viewer.toScreen(...stroke.points.at(-1));
      if (Math.hypot(here[0] - last[0], here[1] - last[1]) > STROKE_STEP_PX) stroke.points.push(point);
      this.redraw();
    } else if (stroke) {
      stroke.points[1] = point;
      this.redraw();
    } else if (press.moved && press.held) {
      this.stroke = { kind: "move", points: [press.point, point], radius: this.diameter() / 2, colour: COLOURS.move };
      this.redraw();
    } else if (press.moved) {
      this.canvas.classList.add("grab");
      this.viewer.pan(here[0] - press.last[0], here[1] - press.last[1]);
    }
    press.last = here;
  }

  pinch(id, here) {
    const before = [...this.pointers.values()];
    this.pointers.set(id, here);
    const now = [...this.pointers.values()], middle = points => points[0].map((value, i) => (value + points[1][i]) / 2);
    const spread = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
    const [from, to] = [middle(before), middle(now)];
    this.viewer.pan(to[0] - from[0], to[1] - from[1]);
    this.viewer.zoomAt(spread(now) / spread(before), ...to);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    this.canvas.classList.remove("grab");
    const { press, stroke } = this;
    this.press = this.stroke = null;
    this.lastActed = false;
    if (press && event.type === "pointerup" && this.editable() && press.number === this.viewer.shown?.number) {
      if (stroke) this.finish(stroke);
      else if (!press.moved && this.tool === "point" && (!press.touch || event.timeStamp - press.time < FINGER_MS)) this.click(press, event);
      else if (!press.moved && press.button === 2) this.click(press, event);
    }
    this.redraw();
  }

  click(press, event) {
    const [x, y] = press.point;
    if (press.button > 0 && press.button !== 2) return;
    this.lastActed = true;
    this.act({ action: press.button === 2 || event.ctrlKey ? "remove" : "add", x, y });
  }

  finish({ kind, points, radius }) {
    const [[x, y], [toX, toY]] = [points[0], points.at(-1)];
    if (kind === "line") this.act({ action: this.tool, points, radius });
    else if (kind === "rectangle") this.act({ action: "region", x, y, to_x: toX, to_y: toY });
    else if (kind === "move") this.act({ action: "move", x, y, to_x: toX, to_y: toY });
    else if (Math.hypot(toX - x, toY - y) * this.viewer.zoom > CLICK_PX) this.measure(Math.hypot(toX - x, toY - y));
  }
}
