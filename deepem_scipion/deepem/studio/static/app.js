// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// The studio: what is shown, and what happens when something is clicked.
import { get, post } from "./api.js";
import { Evaluation } from "./evaluation.js";
import { listenToKeys, listKeys } from "./keys.js";
import { List } from "./list.js";
import { circles, drawMarks, KINDS } from "./marks.js";
import { Display, Legend, Limits } from "./panel.js";
import { Teach } from "./teach.js";
import { Tools } from "./tools.js";
import { Viewer } from "./viewer.js";

const $ = id => document.getElementById(id);
const REJECTED = ["threshold", "distance", "local_std", "border", "mask", "rank"];
const REMOVABLE = ["picked", "particle", "negative"];
const RETRY_MS = 2000;
const NARROW = matchMedia("(max-width: 760px)");
const state = { session: null, summary: null, found: null, circles: [], number: -1, hidden: false, pointed: null };
let display, evaluation, legend, limits, list, teach, tools;

const viewer = new Viewer($("picture"), () => draw(), problem => note(problem ? problem.message : ""));

function toast(text, bad = false) {
  const shown = $("toast");
  shown.textContent = text;
  shown.classList.toggle("bad", bad);
  shown.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { shown.hidden = true; }, bad ? 8000 : 3000);
}

function note(text) {
  $("note").textContent = text;
  $("note").hidden = !text;
}

async function attempt(work) {
  try { return await work(); } catch (problem) {
    toast(problem instanceof TypeError ? "The studio does not answer. What you did last may be missing, everything before is saved. If it has ended, start it again with the same command." : problem.message, true);
    return null;
  }
}

// -- what is shown

function draw() {
  drawMarks($("marks"), viewer, state.found, state.hidden ? [] : state.circles, tools?.stroke, tools?.brush,
    display?.values.boxes ? state.summary.box : 0);
  if (!state.found || !viewer.shown) { $("scale").hidden = true; return; }
  const perPixel = state.session.pixel_size / viewer.zoom, wanted = 130 * perPixel;
  const power = 10 ** Math.floor(Math.log10(wanted)), length = [5, 2, 1].map(digit => digit * power).find(each => each <= wanted);
  $("scale").hidden = false;
  $("scale").firstElementChild.style.width = `${length / perPixel}px`;
  $("scale").lastElementChild.textContent = `${+length.toPrecision(3)} Å`;
}

function arrange() {
  state.circles = state.found ? circles(state.found, Object.keys(state.session.labels), legend.shown) : [];
  draw();
}

function showSummary(summary) {
  if (state.summary && summary.version <= state.summary.version) return;
  const before = state.summary;
  state.summary = summary;
  list.update(summary);
  limits.update(summary);
  const { picks, status, done } = summary, sum = values => values.reduce((total, value) => total + value, 0);
  const known = status.filter(Boolean).length, total = sum(picks), n = status.length;
  const failed = status.filter(each => each === 2).length, odd = Object.keys(summary.outliers).length;
  $("headline").textContent = `${total.toLocaleString("en")} picks`;
  const texts = [`${n} micrograph${n === 1 ? "" : "s"}`, known > failed && `${(total / (known - failed)).toFixed(1)} picks each`,
    sum(done) && `${sum(done)} done`, odd && `${odd} outliers`, failed && `${failed} failed`];
  $("state").textContent = summary.problem || summary.state || (summary.teaching.saved && [`Picks saved in ${summary.teaching.saved}`, summary.teaching.cut].filter(Boolean).join(". ")) || texts.filter(Boolean).join(", ");
  $("state").classList.toggle("bad", Boolean(summary.problem));
  $("progress").hidden = known === n;
  $("progress").value = known / n;
  $("progress").title = `candidates found on ${known} of ${n} micrographs`;
  $("undo").disabled = !summary.can_undo;
  teach.update(summary);
  $("redo").disabled = !summary.can_redo;
  evaluation?.update(summary);
  showFields();
  $("assumed").hidden = !summary.assumed;
  $("assumed").firstElementChild.textContent = `No diameter was given: ${summary.diameter} Å is assumed. Drag across a particle, from edge to edge.`;
  if (before?.assumed && !summary.assumed && tools.tool === "measure" && !tools.stroke) tools.select("point");
  const fixed = Boolean(summary.model) || state.session.has_results;
  $("bright").disabled = fixed;
  if (!before || !fixed) $("brightness").hidden = fixed;  // nothing below moves when a model is learnt
  Object.keys(state.session.labels).forEach((reason, code) => legend.count(reason, here(reason), summary.reasons[code]));
  legend.count("particle", here("particle"), sum(summary.particles));
  legend.count("negative", here("negative"), sum(summary.negatives));
}

// What is in force, except where somebody is typing.
function showFields() {
  const { box, diameter, bright } = state.summary;
  if (document.activeElement !== $("box")) $("box").value = box;
  if (document.activeElement !== $("diameter")) $("diameter").value = +diameter.toFixed(1);
  $("bright").checked = bright;
}

function here(kind) {
  const { found } = state, code = Object.keys(state.session.labels).indexOf(kind);
  if (!found) return null;
  if (code >= 0) return found.reason.filter(each => each === code).length;
  return Array.isArray(found[kind]) ? found[kind].length : found.reference?.[kind]?.length ?? null;
}

function showMicrograph(found) {
  if (state.closed) return;
  const changed = found.number !== state.found?.number;
  if (!changed && found.version < state.found.version) return;  // an answer that a newer one has overtaken
  state.found = found;
  note(found.failure);
  if (found.failure) viewer.clear();
  else if (changed || !viewer.shown) viewer.show(found.number, found.rows, found.columns);
  const title = $("title"), odd = state.summary.outliers[found.number];
  title.textContent = found.name;
  const defocus = state.session.defocus?.[found.number];
  for (const [text, name] of [[defocus != null && `defocus ${defocus.toFixed(2)} µm`, "quiet"], [odd, ""], [found.done && "done", "good"], [!found.failure && found.status === 0 && "finding candidates …", ""],
    [found.reference && `${found.reference.true} true positives, ${found.reference.false.length} false positives, ${found.reference.missed.length} missed`, ""]])
    if (text) title.append(Object.assign(document.createElement("small"), { textContent: text, className: name }));
  for (const kind of Object.keys(legend.lines)) legend.lines[kind].here.textContent = here(kind) ?? "";
  for (const kind of REJECTED) legend.show(kind, state.summary.reasons[Object.keys(state.session.labels).indexOf(kind)] > 0);
  for (const kind of ["gained", "lost"]) legend.show(kind, state.summary.turn > 0);
  if (changed) showScoreMap();
  arrange();
  document.body.dataset.version = seen();
  if (!changed && state.pointed) point(state.pointed);  // it may be something else now
}

// An answer that comes when another micrograph is already in view does not lead back, except after undo and redo.
function showBoth({ summary, micrograph }, goThere = false) {
  if (state.closed) return;
  if (summary) showSummary(summary);
  if (micrograph?.name === undefined) return;
  if (micrograph.number === state.number) showMicrograph(micrograph);
  else if (goThere) select(micrograph.number);
}

async function select(number) {
  if (number < 0 || number >= state.session.names.length) return;
  state.number = number;
  $("list").classList.remove("open");
  list.select(number);
  const found = await attempt(() => get(`micrograph/${number}`));
  if (number !== state.number) return;
  if (!found) { setTimeout(() => { if (number === state.number && number !== state.found?.number) select(number); }, RETRY_MS); return; }
  showMicrograph(found);
  point(null);
  if (!found.failure) readAhead(found);
}

// The next micrograph, once this one is on the screen.
function readAhead(found) {
  const { number, rows, columns } = found, next = list.neighbour(1);
  setTimeout(() => {
    if (state.number !== number || next === number) return;
    if ($("picture").dataset.shown === String(number)) viewer.prefetch(next, rows, columns); else readAhead(found);
  }, 300);
}

async function showScoreMap() {
  viewer.overlay = null;
  if (display.values.scoreMap && state.found) {
    const number = state.found.number, map = await attempt(() => get(`scores/${number}`));
    if (map && number === viewer.shown?.number && display.values.scoreMap) viewer.overlay = { ...map, image: coloured(map) };
  }
  viewer.draw();
}

// A canvas with the score map, transparent where the score is 0.
function coloured({ rows, columns, values }) {
  const canvas = new OffscreenCanvas(columns, rows), context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  Array.from(atob(values), (letter, at) => image.data.set([255, 190, 60, letter.charCodeAt(0)], 4 * at));
  context.putImageData(image, 0, 0);
  return canvas;
}

// -- what is pointed at

// The circle at a place of the micrograph: within it or, if it is drawn small, close to it.
function at(x, y) {
  if (!state.found || state.hidden) return null;
  let best = null, closest = state.found.diameter_px / 2;
  for (const each of state.circles) {
    const small = REJECTED.includes(each[0]) ? 0.4 : 1, distance = Math.hypot(each[1] - x, each[2] - y) / small;
    if (distance < closest) { closest = distance; best = each; }
  }
  return best;
}

const movable = (x, y) => { const found = at(x, y); return found && ["picked", "particle"].includes(found[0]); };

function point(place) {
  state.pointed = place;
  if (!place || !state.found) { $("pointed").textContent = ""; return; }
  const found = at(...place), [x, y] = place;
  if (!found) { $("pointed").textContent = `x ${x.toFixed(0)}, y ${y.toFixed(0)}`; return; }
  const [kind, left, top, score, index] = found, label = KINDS[kind].one ?? legend.lines[kind]?.label;
  $("pointed").textContent = [`x ${left.toFixed(0)}, y ${top.toFixed(0)}`, score !== null && `score ${limits.toScore(score).toFixed(3)}`,
    index !== null && `local std. ${state.found.std[index].toFixed(2)}`, label].filter(Boolean).join(" · ");
}

// -- what is done

async function act(edit) {
  if (state.found?.number !== state.number) { toast("Wait until the micrograph is shown."); return; }  // another one may still be in view
  if (state.found.failure) return;
  const { number } = state;
  // What is meant: the server does nothing else if the same comes twice, or if it has other picks by now.
  if (edit.action === "remove") edit.kind = at(edit.x, edit.y)?.[0];
  const before = here("picked"), picks = () => state.found?.number === number ? here("picked") : before;
  const values = edit.action.endsWith("_all") ? () => ({ ...edit, picks: picks() }) : edit;
  const both = await attempt(() => post(`edit/${number}`, values));
  if (!both) return;
  showBoth(both);
  if (number !== state.number) return;
  if (both.changed && edit.action === "region") toast("Everything in the rectangle counts as marked: its unmarked places are background.");
  if (!both.changed && edit.action === "remove") toast(`Nothing was removed: ${REMOVABLE.includes(edit.kind) ? "what was here has changed" : "there is no pick and no mark here"}.`);
}

// All picks that are in view.
function actOnAll(action) {
  if (state.found && !state.found.failure && !state.found.status) toast("Wait until the candidates of this micrograph are found.");
  else act({ action });
}

async function undo(redo) {
  const { number } = state, both = await attempt(() => post(redo ? "redo" : "undo"));
  if (both) showBoth(both, number === state.number);
}

async function setDiameter(angst) {
  if (!(angst > 0)) return;
  const both = await attempt(() => post("settings", { diameter: +angst.toPrecision(3), number: state.number }));
  if (!both) { showFields(); return; }
  showBoth(both);
  if (!state.summary.searches) toast("Circles and boxes follow the diameter. The picks do not: they stay those of the run or the model. To search with another diameter start the studio with the micrographs.");
}

async function setBox(pixels) {
  const both = await attempt(() => post("settings", { box: pixels, number: state.number }));
  if (both) showBoth(both);
}

function removePointed() {
  const found = state.pointed && at(...state.pointed);
  if (found) act({ action: "remove", x: found[1], y: found[2] });
}

function look(name) {
  const { contrast, brightness, inverted, lowPass, flat } = display.values;
  if (name === "scoreMap") showScoreMap();
  else if (name === "boxes") draw();
  else if (name === "lowPass" || name === "flat") viewer.setLook({ lowPass, flat: flat ? 1 : 0 });
  else viewer.setFilter(contrast, brightness, inverted);
}

function hide(kinds) {
  if (kinds) { legend.toggle(kinds); arrange(); } else { state.hidden = !state.hidden; draw(); }
}

function wire() {
  const step = lines => select(list.neighbour(lines)), zoom = factor => viewer.zoomAt(factor, viewer.width / 2, viewer.height / 2);
  const accept = () => actOnAll("accept_all"), help = () => $("keys").showModal();
  const clicks = { undo: () => undo(false), redo: () => undo(true), accept, fit: () => viewer.fit(), help, next: () => step(1), previous: () => step(-1),
    reset: () => limits.reset(), close: () => close("close"), choose: () => close("choose"), menu: () => { $("list").classList.toggle("open"); $("panel").classList.remove("open"); list.draw(); },
    side: () => { if (NARROW.matches) { $("panel").classList.toggle("open"); $("list").classList.remove("open"); limits.show(); } else document.querySelector("main").classList.toggle("wide"); } };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => tools.select(button.dataset.tool));
  $("diameter").addEventListener("change", () => setDiameter(Number($("diameter").value)));
  $("assumed").lastElementChild.addEventListener("click", () => setDiameter(state.summary.diameter));
  $("box").addEventListener("change", () => setBox(Number($("box").value)));
  for (const id of ["diameter", "box"]) $(id).addEventListener("blur", showFields);
  $("bright").addEventListener("change", async () => {
    const both = await attempt(() => post("settings", { bright: $("bright").checked, number: state.number }));
    if (both) showBoth(both);
  });
  const toolKeys = Object.fromEntries(["point", "erase", "paint", "region", "measure"].map((tool, at) => [String(at + 1), () => tools.select(tool)]));
  listenToKeys({ ...toolKeys, j: () => step(1), arrowright: () => step(1), arrowdown: () => step(1), k: () => step(-1), arrowleft: () => step(-1),
    arrowup: () => step(-1), a: accept, r: () => actOnAll("remove_all"), m: () => act({ action: "done", done: !state.found?.done }), delete: removePointed, x: removePointed, backspace: removePointed,
    z: () => undo(false), y: () => undo(true), f: () => viewer.fit(), "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8),
    h: () => hide(), c: () => hide(REJECTED), i: () => display.set("inverted", !display.values.inverted),
    s: () => { if (state.session.has_score_maps) display.set("scoreMap", !display.values.scoreMap); else toast("No score maps were stored: pick with --score-maps."); },
    "[": () => tools.resizeBrush(1 / 1.15), "]": () => tools.resizeBrush(1.15),
    l: () => teach.learn(), n: () => teach.unsure(), "/": () => $("search").focus(), "?": help, escape: () => tools.select("point") });
  listKeys($("shortcuts"));
}

async function close(how) {
  if (state.closed) return;
  state.closed = true;  // nothing more is asked
  const answer = await attempt(() => post(how));
  if (!answer) {
    state.closed = false;
    follow();
    return;
  }
  viewer.clear();
  state.found = null;
  draw();
  document.body.classList.add("closed");
  const { saved, stored } = answer, unsaved = how === "close" && !stored ? "Its picks were not saved; open it again for that.\n" : "";
  note(`${how === "choose" ? "Done. " : ""}The studio is closed and the session is saved.\n${saved ? `The picks are in ${saved}.\n` : unsaved}You may close this page.`);
}

// The version of all that is in view: an answer may bring a newer list alone.
const seen = () => Math.min(state.summary.version, state.found?.number === state.number ? state.found.version : 0);

async function follow() {
  if (state.following) return;
  state.following = true;
  try { await followChanges(); } finally { state.following = false; }
}

async function followChanges() {
  while (!state.closed) {
    try {
      const { version } = await get("changes", { since: seen() });
      await new Promise(done => setTimeout(done, 250));  // mostly the answer to what this page has asked comes meanwhile
      if (state.closed) return;
      if (version > seen() && !tools.stroke && !limits.waiting) showBoth(await get(`shown/${state.number}`));
    } catch (problem) {
      if (state.closed) return;
      // Another studio may use the port by now.
      $("state").textContent = `${problem instanceof TypeError ? "The studio does not answer" : problem.message}. What it has shown is saved.`;
      $("state").classList.add("bad");
      state.summary.version = 0;  // shown again once it answers
      await new Promise(done => setTimeout(done, RETRY_MS));
    }
  }
}

async function start() {
  const session = await get("session");
  state.session = session;
  note("");
  viewer.pixelSize = session.pixel_size;
  document.title = `DeepEM studio: ${session.title}`;
  list = new List($("list"), select);
  list.start(session);
  $("choose").hidden = !session.choice;
  $("choose").textContent = session.choice ?? "";
  $("evaluation").hidden = !session.has_reference;
  if (session.has_reference) evaluation = new Evaluation($("evaluation"), threshold => limits.set("threshold", threshold), ({ overall, micrographs }) => {
    list.setFigures(micrographs);
    legend.count("missed", here("missed"), overall.truth - overall.true_positives);
    legend.count("false", here("false"), overall.picks - overall.true_positives);
  });
  limits = new Limits($("sliders"), $("histogram"), async values => {
    const both = await attempt(() => post("limits", { ...values, number: state.number }));
    if (both) showBoth(both);
  });
  legend = new Legend($("kinds"), ["particle", "picked", ...REJECTED, "negative", ...(session.has_reference ? ["missed", "false"] : []), "gained", "lost"], session.labels, arrange);
  display = new Display($("looks"), session, look);
  look("lowPass");
  tools = new Tools($("marks"), viewer, { act, measure: pixels => setDiameter(pixels * session.pixel_size), hover: point, at: movable,
    redraw: draw, diameter: () => state.found?.diameter_px ?? 1, editable: () => !NARROW.matches && Boolean(state.found) && !state.found.failure });
  teach = new Teach({ select, toast, ask: async (path, values) => {
    const answer = await attempt(() => post(path, values));
    if (answer) showBoth(answer);
    return answer;
  } });
  tools.select(session.assumed ? "measure" : "point");
  wire();
  showSummary(session);
  await select(0);
  follow();
}

function begin() {
  start().catch(problem => {
    note(problem.message === "open the address that the studio printed"
      ? "This page needs the whole address that `deepem studio` printed, with all that follows #." : problem.message);
    if (problem instanceof TypeError && !state.session) setTimeout(begin, RETRY_MS);
  });
}

begin();
