// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// Keys, and the window that lists them.

export const SHORTCUTS = [
  [["J", "→"], "next micrograph"], [["K", "←"], "previous micrograph"], [["A"], "accept all picks, and done"], [["R"], "remove all picks, and done"],
  [["M"], "mark the micrograph as done, or not"], [["click"], "add or accept a particle"], [["right click"], "remove"],
  [["Delete", "X"], "remove the circle under the pointer"], [["drag a circle"], "move it"],
  [["drag"], "move the micrograph"], [["wheel", "+", "-"], "zoom"], [["F"], "whole micrograph"],
  [["Z"], "undo"], [["Shift+Z", "Y"], "redo"], [["1 … 5"], "tools"], [["[", "]"], "size of the brush"],
  [["H"], "hide or show everything"], [["C"], "hide or show rejected candidates"], [["I"], "invert"],
  [["S"], "score map"], [["L"], "learn"], [["N"], "next to check"], [["/"], "search"], [["?"], "this list"],
];

export function listKeys(place) {
  for (const [keys, text] of SHORTCUTS) {
    const line = document.createElement("div"), left = document.createElement("div"), right = document.createElement("span");
    keys.forEach((key, at) => {
      const shown = document.createElement("kbd");
      shown.textContent = key;
      left.append(at ? " " : "", shown);
    });
    right.textContent = text;
    line.append(left, right);
    place.append(line);
  }
}

// What a key does again while it is held; other keys would take back what they have just done.
const REPEATED = ["z", "y", "j", "k", "+", "=", "-", "[", "]", "arrowleft", "arrowright", "arrowup", "arrowdown"];

// `actions` has a function for each key, by its name as in KeyboardEvent.key, lower case.
export function listenToKeys(actions) {
  addEventListener("keydown", event => {
    const writing = event.target.matches?.("input:not([type=checkbox]):not([type=range])");
    if (event.key === "Escape" && writing) { event.target.blur(); return; }
    if (writing || document.querySelector("dialog[open]") || event.altKey) return;
    let key = event.key.toLowerCase();
    if (event.target.matches?.("input[type=range]") && key.startsWith("arrow")) return;
    if (event.ctrlKey || event.metaKey) {
      if (key !== "z" && key !== "y") return;
    }
    if (key === "z" && event.shiftKey) key = "y";
    const action = actions[key];
    if (!action) return;
    event.preventDefault();
    if (!event.repeat || REPEATED.includes(key)) action();
  });
}
