# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report of a search: every trial, and what was gained."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState


def report_lines(trials: list[FrozenTrial], first: FrozenTrial, chosen: FrozenTrial) -> list[str]:
    """Return the report in Markdown: all trials, the first complete one and the chosen one compared."""
    assert chosen.value is not None and first.value is not None
    worth = ("Nothing was gained: the first trial, the model that `deepem train` makes, is chosen."
             if chosen.number == first.number else
             f"The average precision of trial {chosen.number} is {chosen.value - first.value:.4f} above that of the "
             f"model that `deepem train` makes. This is optimistic: the best of {len(trials)} trials on a few "
             "micrographs is partly the luckiest one. Compare both models on other micrographs.")
    return ["# Tuning", "", worth, "", "AP: average precision of the picks on the validation micrographs.", "",
            "| trial | AP or why there is none | settings |", "|---|---|---|",
            *(f"| {trial.number}{' (chosen)' * (trial.number == chosen.number)} | {outcome(trial)} | "
              f"{trial.user_attrs.get('settings', '')} |" for trial in trials)]


def outcome(trial: FrozenTrial) -> str:
    """Return the average precision of a trial, or why there is none."""
    if trial.state == TrialState.COMPLETE:
        return f"{trial.value:.4f}"
    return str(trial.user_attrs.get("reason", "interrupted")).replace("|", "/")
