// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// The micrograph on its canvas: place and zoom, tiles from the server, contrast.
import { picture } from "./api.js";

const TILE = 512, MARGIN = 1, KEPT = 240, MAX_ZOOM = 12, RETRY_MS = 2000;

export class Viewer {
  constructor(canvas, onDraw, onProblem) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.onDraw = onDraw;
    this.onProblem = onProblem;
    this.tiles = new Map();
    this.look = { lowPass: 0, flat: 1 };
    this.pixelSize = 1;
    this.shown = null;
    this.zoom = 1;  // pixels of the screen (CSS) per pixel of the micrograph
    this.x = this.y = 0;  // of the micrograph, at the upper left corner
    this.fitted = true;
    this.overlay = null;
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
  }

  get width() { return this.canvas.parentElement.clientWidth; }
  get height() { return this.canvas.parentElement.clientHeight; }

  show(number, rows, columns) {
    const before = this.shown;
    this.shown = { number, rows, columns };
    this.overlay = null;
    if (!before || before.rows !== rows || before.columns !== columns || this.fitted) this.fit();
    else this.draw();
  }

  clear() { this.shown = null; this.draw(); }

  resize() {
    const ratio = devicePixelRatio;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    if (this.fitted && this.shown) this.fit(); else this.draw();
  }

  get fitZoom() { return Math.min(this.width / this.shown.columns, this.height / this.shown.rows); }

  fit() {
    if (!this.shown) return;
    this.fitted = true;
    this.zoom = this.fitZoom;
    this.x = (this.shown.columns - this.width / this.zoom) / 2 - 0.5;
    this.y = (this.shown.rows - this.height / this.zoom) / 2 - 0.5;
    this.draw();
  }

  zoomAt(factor, screenX, screenY) {
    if (!this.shown) return;
    const zoom = Math.min(MAX_ZOOM, Math.max(this.fitZoom, this.zoom * factor));
    if (zoom <= this.fitZoom) { this.fit(); return; }
    this.fitted = false;
    this.x += screenX / this.zoom - screenX / zoom;
    this.y += screenY / this.zoom - screenY / zoom;
    this.zoom = zoom;
    this.draw();
  }

  pan(dx, dy) {
    if (!this.shown) return;
    this.fitted = false;
    const { rows, columns } = this.shown;
    const within = (value, size, seen) => Math.min(Math.max(value, -seen / 2), size - seen / 2);
    this.x = within(this.x - dx / this.zoom, columns, this.width / this.zoom);
    this.y = within(this.y - dy / this.zoom, rows, this.height / this.zoom);
    this.draw();
  }

  centreOn(x, y) {
    this.fitted = false;
    this.x = x - this.width / this.zoom / 2;
    this.y = y - this.height / this.zoom / 2;
    this.draw();
  }

  toMicrograph(x, y) { return [this.x + x / this.zoom, this.y + y / this.zoom]; }
  toScreen(x, y) { return [(x - this.x) * this.zoom, (y - this.y) * this.zoom]; }

  setLook(look) {
    Object.assign(this.look, look);
    this.draw();
  }

  setFilter(contrast, brightness, inverted) {
    // A filter that changes nothing costs as much as any other.
    const filters = [inverted && "invert(1)", contrast !== 1 && `contrast(${contrast})`, brightness !== 1 && `brightness(${brightness})`];
    this.canvas.style.filter = filters.filter(Boolean).join(" ");
  }

  draw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => { this.drawing = false; this.drawNow(); });
  }

  // The finest level that shows all that the low-pass leaves.
  get finest() {
    const useful = this.look.lowPass / this.pixelSize / 4;
    return useful > 1 ? Math.floor(Math.log2(useful)) : 0;
  }

  drawNow() {
    const { context, canvas } = this, ratio = devicePixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#0c0d0f";
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.missing = 0;
    if (this.shown) {
      context.setTransform(ratio * this.zoom, 0, 0, ratio * this.zoom, -ratio * this.zoom * this.x, -ratio * this.zoom * this.y);
      context.imageSmoothingQuality = "high";
      const { rows, columns } = this.shown;
      const coarsest = Math.max(0, Math.ceil(Math.log2(Math.max(rows, columns) / (2 * TILE))));
      const wanted = Math.floor(Math.log2(1 / (this.zoom * ratio)) + 0.2);
      const level = Math.min(coarsest, Math.max(wanted, this.finest, 0));
      for (const each of new Set([coarsest, level])) this.drawLevel(each);
      if (this.overlay) {
        const { image, left, top, scale } = this.overlay;
        context.globalAlpha = 0.6;
        context.drawImage(image, left, top, image.width * scale, image.height * scale);
        context.globalAlpha = 1;
      }
    }
    canvas.dataset.shown = this.shown && !this.missing ? this.shown.number : "";
    this.onDraw();
  }

  drawLevel(level) {
    const { rows, columns, number } = this.shown, side = TILE * 2 ** level;
    const range = (start, seen, size) => [Math.max(0, Math.floor(start / side)),
      Math.min(Math.ceil(size / side), Math.ceil((start + seen) / side))];
    const [left, right] = range(this.x, this.width / this.zoom, columns);
    const [top, bottom] = range(this.y, this.height / this.zoom, rows);
    for (let row = top; row < bottom; row++)
      for (let column = left; column < right; column++) {
        const tile = this.tile(number, level, column, row);
        if (!tile) { this.missing++; continue; }
        const scale = 2 ** level, place = at => (at * TILE - (at ? MARGIN : 0)) * scale - 0.5;
        this.context.save();
        this.clip(column * side, row * side, Math.min((column + 1) * side, columns), Math.min((row + 1) * side, rows));
        this.context.drawImage(tile, place(column), place(row), tile.width * scale, tile.height * scale);
        this.context.restore();
      }
  }

  // To whole pixels of the screen, so that neither a gap nor twice drawn pixels are between tiles.
  clip(left, top, right, bottom) {
    const { context, zoom } = this, screen = (value, first) => Math.round((value - 0.5 - first) * zoom * devicePixelRatio);
    const [x0, x1, y0, y1] = [screen(left, this.x), screen(right, this.x), screen(top, this.y), screen(bottom, this.y)];
    const transform = context.getTransform();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.beginPath();
    context.rect(x0, y0, x1 - x0, y1 - y0);
    context.clip();
    context.setTransform(transform);
  }

  tile(number, level, column, row) {
    const { lowPass, flat } = this.look;
    const key = `${number}/${level}/${column}/${row}`, whole = `${key}?${lowPass}&${flat}`;
    const known = this.tiles.get(whole);
    if (known) {
      this.tiles.delete(whole);
      this.tiles.set(whole, known);  // used last
      return known.image;
    }
    const entry = { image: null };
    this.tiles.set(whole, entry);
    if (this.tiles.size > KEPT) this.tiles.delete(this.tiles.keys().next().value);
    picture(`tile/${key}`, { low_pass: lowPass, flat }).then(image => {
      entry.image = image;
      if (this.shown?.number !== number) return;
      if (this.failed) this.onProblem(null);
      this.failed = false;
      this.draw();
    }, problem => {
      this.tiles.delete(whole);
      if (this.shown?.number !== number) return;
      this.failed = true;
      this.onProblem(problem);
      setTimeout(() => this.draw(), RETRY_MS);
    });
    return null;
  }

  prefetch(number, rows, columns) {
    const level = Math.max(0, Math.ceil(Math.log2(Math.max(rows, columns) / (2 * TILE)))), side = TILE * 2 ** level;
    for (let row = 0; row * side < rows; row++)
      for (let column = 0; column * side < columns; column++) this.tile(number, level, column, row);
  }
}
