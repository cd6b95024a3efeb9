// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// Circles on the micrograph: picks by score, other candidates by reason, marks, reference coordinates. The session has
// the wording of the reasons.

export const KINDS = {
  particle: { label: "particles", one: "particle", colour: "#46d39a" },
  picked: { colour: "#f6b73c" },
  threshold: { colour: "#56b4e9" },
  distance: { colour: "#009e73" },
  local_std: { colour: "#cc79a7" },
  border: { colour: "#2f8fd8" },
  mask: { colour: "#d55e00" },
  rank: { colour: "#e69f00" },
  negative: { label: "negatives", one: "negative", colour: "#ff6b6b" },
  missed: { label: "missed", colour: "#ff4fd8" },
  false: { label: "false positives", one: "false positive", colour: "#ff4fd8" },
  gained: { label: "new since Learn", colour: "#ffffff" },
  lost: { label: "gone since Learn", colour: "#ff9a8a" },
};
const SCORE_COLOURS = [[140, 45, 4], [241, 106, 19], [255, 240, 128]];
const SMALL = 0.3;

export function scoreColour(score) {
  const at = Math.min(Math.max(score, 0), 1) * 2, from = Math.min(Math.floor(at), 1), share = at - from;
  return `rgb(${SCORE_COLOURS[from].map((value, i) => Math.round(value + share * (SCORE_COLOURS[from + 1][i] - value)))})`;
}

function circle(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, Math.max(radius, 2), 0, 7);
  context.stroke();
}

function cross(context, x, y, radius) {
  context.beginPath();
  context.moveTo(x - radius, y - radius);
  context.lineTo(x + radius, y + radius);
  context.moveTo(x + radius, y - radius);
  context.lineTo(x - radius, y + radius);
  context.stroke();
}

// How each kind of mark is drawn at a place of the screen, the particle being `radius` wide there.
const SHAPES = {
  particle: (context, x, y, radius) => {
    context.lineWidth = 2.5;
    circle(context, x, y, radius);
    context.fillStyle = KINDS.particle.colour;
    context.beginPath();
    context.arc(x, y, 2.2, 0, 7);
    context.fill();
  },
  picked: (context, x, y, radius) => { context.lineWidth = 2; circle(context, x, y, radius); },
  negative: (context, x, y, radius) => { context.lineWidth = 2; cross(context, x, y, Math.max(3.5, 0.35 * radius)); },
  missed: (context, x, y, radius) => { context.lineWidth = 2; context.setLineDash([5, 4]); circle(context, x, y, 1.12 * radius); context.setLineDash([]); },
  false: (context, x, y, radius) => { context.lineWidth = 1.5; cross(context, x, y, Math.max(4, 0.5 * radius)); },
  gained: (context, x, y, radius) => { context.lineWidth = 2; circle(context, x, y, 1.18 * radius + 2); },
  lost: (context, x, y, radius) => { context.lineWidth = 2.5; context.setLineDash([7, 4]); circle(context, x, y, radius); context.setLineDash([]); },
};
const small = (context, x, y, radius) => {
  context.lineWidth = 1.4;
  context.globalAlpha = 0.8;
  circle(context, x, y, SMALL * radius);
  context.globalAlpha = 1;
};

export function drawKind(context, kind, x, y, radius, score = 0.75) {
  context.strokeStyle = kind === "picked" ? scoreColour(score) : KINDS[kind].colour;
  (SHAPES[kind] ?? small)(context, x, y, radius);
}

// The circles of a micrograph that are to be shown: [kind, x, y, score, index of the candidate or null], the last on top.
export function circles(found, reasons, shown) {
  const result = [];
  const put = (kind, places, score) => {
    if (shown[kind]) for (const place of places) result.push([kind, place[0], place[1], score?.(place) ?? null, null]);
  };
  found.reason.forEach((code, index) => {
    if (code > 0 && shown[reasons[code]]) result.push([reasons[code], found.x[index], found.y[index], found.score[index], index]);
  });
  for (let index = found.reason.length - 1; index >= 0; index--)  // the best on top
    if (found.reason[index] === 0 && shown.picked) result.push(["picked", found.x[index], found.y[index], found.score[index], index]);
  put("lost", found.lost);
  put("gained", found.gained);
  put("negative", found.negative, place => place[2]);
  put("particle", found.particle, place => place[2]);
  if (found.reference) {
    put("false", found.reference.false);
    put("missed", found.reference.missed);
  }
  return result;
}

export function drawMarks(canvas, viewer, found, every, stroke, brush, box = 0) {
  const ratio = devicePixelRatio, context = canvas.getContext("2d");
  const width = Math.round(viewer.width * ratio), height = Math.round(viewer.height * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, viewer.width, viewer.height);
  if (!found) return;
  const radius = found.diameter_px / 2 * viewer.zoom;
  for (const [kind, x, y, score] of every) {
    const [left, top] = viewer.toScreen(x, y);
    if (left > -2 * radius && top > -2 * radius && left < viewer.width + 2 * radius && top < viewer.height + 2 * radius)
      drawKind(context, kind, left, top, radius, score ?? 1);
  }
  if (box) drawBoxes(context, viewer, every, box * viewer.zoom);
  context.strokeStyle = "#e4e7ea";
  context.lineWidth = 1.5;
  for (const corners of found.region) rectangle(context, viewer, corners);
  context.strokeStyle = KINDS.missed.colour;
  if (found.reference?.region) rectangle(context, viewer, found.reference.region);
  drawStroke(context, viewer, stroke);
  if (brush) {
    context.strokeStyle = "rgb(255 255 255 / 85%)";
    context.lineWidth = 1.2;
    circle(context, brush.x, brush.y, brush.radius);
  }
}

function drawBoxes(context, viewer, every, side) {
  context.strokeStyle = "#56b4e9";
  context.lineWidth = 1;
  for (const [kind, x, y] of every) {
    if (kind !== "picked" && kind !== "particle") continue;
    const [left, top] = viewer.toScreen(x, y);
    context.strokeRect(left - side / 2, top - side / 2, side, side);
  }
}

function rectangle(context, viewer, [x0, y0, x1, y1]) {
  const [left, top] = viewer.toScreen(x0, y0), [right, bottom] = viewer.toScreen(x1, y1);
  context.setLineDash([7, 5]);
  context.strokeRect(left, top, right - left, bottom - top);
  context.setLineDash([]);
}

function drawStroke(context, viewer, stroke) {
  if (!stroke) return;
  context.strokeStyle = stroke.colour;
  context.lineWidth = 1.5;
  const points = stroke.points.map(([x, y]) => viewer.toScreen(x, y));
  const [first, last] = [points[0], points.at(-1)];
  if (stroke.kind === "rectangle") {
    rectangle(context, viewer, [...stroke.points[0], ...stroke.points.at(-1)]);
  } else if (stroke.kind === "circle") {
    circle(context, (first[0] + last[0]) / 2, (first[1] + last[1]) / 2, Math.hypot(last[0] - first[0], last[1] - first[1]) / 2);
  } else if (stroke.kind === "move") {
    context.lineWidth = 2.5;
    circle(context, last[0], last[1], stroke.radius * viewer.zoom);
  } else {
    context.lineWidth = 2 * stroke.radius * viewer.zoom;
    context.lineCap = context.lineJoin = "round";
    context.globalAlpha = 0.25;
    context.beginPath();
    context.moveTo(...first);
    for (const point of [...points, last]) context.lineTo(...point);
    context.stroke();
    context.globalAlpha = 1;
  }
}
