// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// Learning: the buttons, and what became of it.

const AUTO_MARKS = 10;
// Fewer marks held out show nothing.
const MIN_HELD_OUT = 4;
const NO_MARKS = "Needs at least one mark; Save picks writes the picks as they are";
const TITLES = { learn: "Learn from what you marked (L)", finish: "Train longer, pick all micrographs, save model and picks" };
const $ = id => document.getElementById(id);

export class Teach {
  // `ask` posts a request and shows what comes back; `select` shows a micrograph.
  constructor({ ask, select, toast }) {
    Object.assign(this, { send: ask, select, toast });
    this.learntAt = null;
    this.learning = new TimeLeft();
    this.picking = new TimeLeft();
    const clicks = { learn: () => this.learn(), unsure: () => this.unsure(), back: () => ask("back"), take: () => ask("take"), cancel: () => ask("cancel"),
      finish: () => ask("learn", { final: true }), save: () => this.save() };
    for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  }

  // Once, however often somebody clicks before the answer.
  async ask(path, values) {
    if (this.asking) return null;
    this.asking = true;
    try { return await this.send(path, values); } finally { this.asking = false; }
  }

  learn() { if (!$("learn").disabled) this.ask("learn"); }

  unsure() {
    const { next, uncertain } = this;
    if (next < 0) return;
    this.select(next);
    this.toast(`Nothing is marked here yet, and ${uncertain || "no"} candidate${uncertain === 1 ? " is" : "s are"} close to the threshold.`);
  }

  async save() {
    const answer = await this.ask("save");
    if (answer) this.toast(`Saved in ${answer.folder}`);
  }

  update({ teaching, model, status }) {
    const { busy, finishing, cancelled, share, outcome, saved, offer, marks, back, next, uncertain } = teaching;
    const known = status.filter(Boolean).length, picked = `${known} of ${status.length}`;
    Object.assign(this, { next, uncertain });
    this.learntAt ??= marks;
    if (busy && !this.busy) this.learntAt = marks;
    this.busy = busy;
    for (const id of ["learn", "finish"]) {
      $(id).disabled = busy || finishing || !marks;
      $(id).title = marks ? TITLES[id] : NO_MARKS;
    }
    $("unsure").disabled = next < 0;
    $("unsure").title = next < 0 ? "Every micrograph that was picked has marks" : "The micrograph on which the model is least certain (N)";
    $("back").hidden = !back || busy;
    $("take").hidden = !offer;
    $("cancel").hidden = !busy && !finishing;
    $("cancel").disabled = Boolean(cancelled && busy);
    $("learning").hidden = !busy;
    $("learning").value = share;
    const left = [this.learning.text(share, busy), this.picking.text(known / status.length, finishing && !busy)].join("");
    $("lesson").textContent = busy && cancelled ? "Cancelling ..." : busy ? `${finishing ? "Finish, first step: the final model learns from all marks" : "Learning from your marks"} ...${left}` :
      finishing ? `Finish, second step: the final model picks all micrographs, ${picked} ...${left}` :
      sentence(outcome, saved, offer, marks, this.learntAt) || (marks ? `${counted(marks)}${model ? "" : ", no model of your own yet"}.` :
      "Click what is missing, right-click what is wrong, then Learn.");
    if ($("auto").checked && !busy && !finishing && marks >= this.learntAt + AUTO_MARKS) {
      this.learntAt = marks;
      this.send("learn");  // also if this was the answer to something else
    }
  }
}

// Of something whose share is done; from the progress so far.
class TimeLeft {
  text(share, running) {
    if (!running) { this.began = null; return ""; }
    if (!this.began || share < this.first) { this.began = Date.now(); this.first = share; }
    const seconds = (Date.now() - this.began) / 1000 * (1 - share) / (share - this.first);
    if (!Number.isFinite(seconds) || share - this.first < 0.15 || seconds < 1) return "";
    return seconds <= 90 ? ` About ${Math.ceil(seconds)} s left.` : ` About ${Math.round(seconds / 60)} min left.`;
  }
}

const counted = (marks, kind = "") => `${marks} ${kind}mark${marks === 1 ? "" : "s"}`;

// `learntAt` is the number of marks at the last learning. A worse model that is no longer offered was taken after all.
function sentence({ marks, held_out: heldOut, before, after, taken, finished, cancelled, back, threshold }, saved, offer, now, learntAt) {
  if (finished) return saved ? `Finished${threshold === undefined ? "" : `, with a threshold of ${threshold.toFixed(3)}`}. The picks of all micrographs (picks.star, .box files) and the model (model.deepem) are in ${saved}. Close ends the studio.` :
    "The picks have changed since they were saved: they are saved again on Close, or by Save picks.";
  if (back !== undefined) return `${back ? `Model ${back}` : "What the session began with"} is in use again.${saved ? "" : " Save picks saves what it picks."}`;
  if (cancelled) return "Cancelled. Nothing that you marked is lost.";
  if (marks === undefined) return "";
  const compared = heldOut && taken && marks < MIN_HELD_OUT ?
    `. Only ${marks} of your ${counted(learntAt)} were kept aside, too few to compare it with the model before.` :
    marks ? `: it gets ${after} of ${heldOut ? counted(marks, "held-out ") : `your ${counted(marks)}`} right, the one before ${before}.` : ".";
  const picks = taken && threshold !== undefined ? ` With a threshold of ${threshold.toFixed(3)} it picks as many as were shown.` : "";
  return `The new model ${taken || !offer ? "is in use" : "was not taken"}${compared}${picks}${now > learntAt ? ` ${counted(now - learntAt)} since.` : ""}`;
}
