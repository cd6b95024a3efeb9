// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// Learning: the buttons, and what became of it.

const AUTO_MARKS = 10;
// Fewer marks held out show nothing.
const MIN_HELD_OUT = 4;
const $ = id => document.getElementById(id);

export class Teach {
  // `ask` posts a request and shows what comes back; `select` shows a micrograph.
  constructor({ ask, select, toast }) {
    Object.assign(this, { ask, select, toast });
    this.learntAt = null;
    this.learning = new TimeLeft();
    this.picking = new TimeLeft();
    const clicks = { learn: () => this.learn(), unsure: () => this.unsure(), back: () => ask("back"), take: () => ask("take"),
      finish: () => ask("learn", { final: true }), save: () => this.save() };
    for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
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
    const { busy, finishing, share, outcome, saved, offer, marks, back, next, uncertain } = teaching;
    const known = status.filter(Boolean).length, picked = `${known} of ${status.length}`;
    Object.assign(this, { next, uncertain });
    this.learntAt ??= marks;
    if (busy) this.learntAt = marks;
    $("learn").disabled = $("finish").disabled = busy || finishing || !marks;
    $("unsure").disabled = next < 0;
    $("back").hidden = !back || busy;
    $("take").hidden = !offer;
    $("learning").hidden = !busy;
    $("learning").value = share;
    const left = [this.learning.text(share, busy), this.picking.text(known / status.length, finishing && !busy)].join("");
    $("lesson").textContent = busy ? `${finishing ? "Finish, first step: the final model learns from all marks" : "Learning from your marks"} ...${left}` :
      finishing ? `Finish, second step: the final model picks all micrographs, ${picked} ...${left}` :
      sentence(outcome, saved) || (marks ? `${counted(marks)}${model ? "" : ", no model of your own yet"}.` :
      "Click what is missing, right-click what is wrong, then Learn.");
    if ($("auto").checked && !busy && !finishing && marks >= this.learntAt + AUTO_MARKS) {
      this.learntAt = marks;
      this.ask("learn");
    }
  }
}

// Of something whose share is done; from the progress so far.
class TimeLeft {
  text(share, running) {
    if (!running) { this.began = null; return ""; }
    if (!this.began || share < this.first) { this.began = Date.now(); this.first = share; }
    const seconds = (Date.now() - this.began) / 1000 * (1 - share) / (share - this.first);
    if (!Number.isFinite(seconds)) return "";
    return seconds <= 90 ? ` About ${Math.ceil(seconds)} s left.` : ` About ${Math.round(seconds / 60)} min left.`;
  }
}

const counted = marks => `${marks} mark${marks === 1 ? "" : "s"}`;

function sentence({ marks, held_out: heldOut, before, after, taken, finished }, saved) {
  if (finished) return saved ? `Finished. The picks of all micrographs (picks.star, .box files) and the model (model.deepem) are in ${saved}. Close ends the studio.` :
    "The picks have changed since they were saved. Save picks writes them again.";
  if (marks === undefined) return "";
  if (!marks) return "The new model is in use.";
  if (heldOut && taken && marks < MIN_HELD_OUT) return "The new model is in use. There are too few marks to compare it with the one before.";
  return `Of ${counted(marks)}${heldOut ? " held out" : ""} the new model gets ${after} right, the one before ${before}. ${taken ? "It is in use." : "It was not taken."}`;
}
