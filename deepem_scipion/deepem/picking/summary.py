# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a picking run: of each micrograph as a table, over all of them, and which are unlike the others.

The entry of a micrograph is a dictionary: path, status ("ok" or "failed"), reason of a failure, candidates, picks, mean
score of the picks, candidates rejected for each reason (number and share), seconds it took, and when it was finished
(seconds since 1970). Those of the first micrographs have the evidence for either sign of the contrast, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_write
from ..errors import DeepEMError
from .selection import PICKED, REASONS

REJECTED = tuple(reason for reason in REASONS if reason != PICKED)
_NUMBERS = {"picks": int, "mean_score": float, "candidates": int, "seconds": float, "finished": float,
            "evidence": float, "negative_evidence": float}
_COLUMNS = ("micrograph", "status", *_NUMBERS, *(f"rejected_{reason}" for reason in REJECTED),
            *(f"share_{reason}" for reason in REJECTED), "path", "reason")

# Fewer micrographs do not tell what is usual.
MIN_TO_COMPARE = 10
# Usual is what lies within so many standard deviations of the median; the deviation is 1.4826 times the median absolute
# deviation, which a minority of odd micrographs does not change.
MAX_DEVIATIONS = 3.5
# A smaller deviation of mean scores is taken for this.
MIN_SCORE_DEVIATION = 0.02
# The sign of the contrast is checked on so many micrographs, each of which then takes twice as long.
CONTRAST_CHECKS = 3
# The contrast is called inverted where the evidence for it exceeds the other by so many standard deviations.
CONTRAST_DEVIATIONS = 3.0
# Speed is that of the last so many micrographs.
SPEED_OVER = 100
# Numbers in a table are below this.
_MAX_VALUE = 2.0**53


def rejected(counts: Mapping[str, int], candidates: int) -> dict[str, dict[str, Any]]:
    """The part of an entry about candidates that were rejected, from their number for each reason."""
    return {"rejected": dict(counts),
            "rejected_share": {reason: round(n / candidates, 4) if candidates else 0.0 for reason, n in counts.items()}}


def totals(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures over all micrographs; None where there is nothing to take a mean of.

    Parameters
    ----------
    entries : name -> entry

    Returns
    -------
    dict
        picked, failed (micrographs), picks, picks_per_micrograph, mean_score, rejected_share by reason, seconds per
        micrograph, micrographs_per_minute (of the last `SPEED_OVER`), contrast, see `contrast`, and suspicious, see
        `outliers`.
    """
    done = [entry for entry in entries.values() if entry["status"] == "ok"]
    picks, candidates = (sum(entry.get(key) or 0 for entry in done) for key in ("picks", "candidates"))
    scores = sum(entry["picks"] * entry["mean_score"] for entry in done if entry.get("mean_score") is not None)
    counts = {reason: sum(entry.get("rejected", {}).get(reason, 0) for entry in done) for reason in REJECTED}
    return {
        "picked": len(done), "failed": len(entries) - len(done), "picks": picks,
        "picks_per_micrograph": round(picks / len(done), 2) if done else None,
        "mean_score": round(scores / picks, 4) if picks else None,
        "rejected_share": rejected(counts, candidates)["rejected_share"],
        "seconds": round(sum(entry.get("seconds") or 0 for entry in done) / len(done), 4) if done else None,
        "micrographs_per_minute": _speed(entries.values()),
        "contrast": contrast(entries),
        "outliers": outliers(entries),
    }


def _speed(entries: Iterable[Mapping[str, Any]]) -> float | None:
    times = sorted(entry["finished"] for entry in entries if "finished" in entry)[-SPEED_OVER - 1:]
    return round(60 * (len(times) - 1) / (times[-1] - times[0]), 1) if times and times[-1] > times[0] else None


def contrast(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What was found out about the sign of the contrast; None where nothing was.

    Evidence is the sum of the squared scores of the picks, once of the micrographs and once of their negatives. With
    the model's contrast the first is the greater one, by a factor of 1.5 to 5; on micrographs without particles both
    are small. So the contrast is called inverted where the second is greater by more than chance, the deviation of
    counted things being the square root of their number.
    """
    checked = [entry for entry in entries.values()
               if entry.get("evidence") is not None and entry.get("negative_evidence") is not None]
    if not checked:
        return None
    as_is, negative = (sum(entry[key] for entry in checked) for key in ("evidence", "negative_evidence"))
    return {"micrographs": len(checked), "evidence": round(as_is, 2), "negative_evidence": round(negative, 2),
            "inverted": bool(negative - as_is > CONTRAST_DEVIATIONS * np.sqrt(as_is + negative))}


def inverted(summary: Mapping[str, Any]) -> str:
    """A sentence about the wrong sign of the contrast for a summary with `contrast`; empty where it is right."""
    found = summary.get("contrast") or {}
    if not found.get("inverted"):
        return ""
    return (f"the contrast seems to be inverted: the model was trained on {summary.get('model_contrast') or 'other'} "
            f"particles, and the negatives of the first {found['micrographs']} micrographs look more like them "
            f"({found['negative_evidence']:.0f} against {found['evidence']:.0f}). Invert the micrographs, or train a "
            "model on them")


def outliers(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Micrographs whose number of picks or mean score is unlike that of the others.

    Parameters
    ----------
    entries : name -> entry

    Returns
    -------
    Name -> what is unlike, for instance "few picks (3, median 81)". Empty for fewer than `MIN_TO_COMPARE`
    micrographs.

    Notes
    -----
    Unlike means further than `MAX_DEVIATIONS` from the median over the run. The deviation is taken from the median
    absolute deviation, but that of counts is at least their square root (chance alone makes counts differ that much),
    that of mean scores at least `MIN_SCORE_DEVIATION`.
    """
    found: dict[str, list[str]] = {}
    done = {name: entry for name, entry in entries.items() if entry["status"] == "ok"}
    for key, what, number in (("picks", ("few picks", "many picks"), "{:.0f}"),
                              ("mean_score", ("low scores", "high scores"), "{:.2f}")):
        values = {name: entry[key] for name, entry in done.items() if entry.get(key) is not None}
        if len(values) < MIN_TO_COMPARE:
            continue
        table = np.array(list(values.values()), float)
        median = float(np.median(table))
        least = np.sqrt(max(median, 1)) if key == "picks" else MIN_SCORE_DEVIATION
        deviation = max(1.4826 * float(np.median(np.abs(table - median))), least)
        for name, value in values.items():
            if abs(value - median) > MAX_DEVIATIONS * deviation:
                found.setdefault(name, []).append(f"{what[int(value > median)]} ({number.format(value)}, median "
                                                  f"{number.format(median)})")
    return {name: ", ".join(words) for name, words in found.items()}


def write_table(path: str | Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the entries as a table with tabs, one micrograph per line; the file is whole or not there."""
    with atomic_write(path) as handle:
        handle.writelines(["\t".join(_COLUMNS) + "\n", *map(_line, entries, entries.values())])


def append_table(path: str | Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Add entries to a table, which is made where there is none; takes as long however long the table is.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    try:
        with open(path, "a+b") as handle:
            start = "\t".join(_COLUMNS) + "\n"
            if handle.seek(0, os.SEEK_END):
                handle.seek(-1, os.SEEK_END)
                start = "" if handle.read(1) == b"\n" else "\n"  # a line that an interruption cut short ends here
            handle.write((start + "".join(map(_line, entries, entries.values()))).encode(errors="surrogateescape"))
    except OSError as error:
        raise DeepEMError(f"{path} cannot be written ({error}). Check the folder, its permissions and the space "
                          "left.") from error


def read_table(path: str | Path) -> dict[str, dict[str, Any]]:
    """Entries by name from a table; empty where there is none.

    Lines that were cut short or damaged are left out. Of several entries of a micrograph, as after another attempt, the
    last one holds.

    Raises
    ------
    DeepEMError
        The file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error
    entries = {}
    for row in (line.split("\t") for line in lines[1:-1]):
        if len(row) == len(_COLUMNS):
            with suppress(ValueError):
                entries[row[0]] = _entry(dict(zip(_COLUMNS, row)))
    return entries


def _line(name: str, entry: Mapping[str, Any]) -> str:
    fields = {**entry, "micrograph": name,
              **{f"{prefix}_{reason}": value for prefix, key in (("rejected", "rejected"), ("share", "rejected_share"))
                 for reason, value in entry.get(key, {}).items()}}
    values = ("" if fields.get(column) is None else str(fields[column]) for column in _COLUMNS)
    return "\t".join(value.translate(_BLANKS) for value in values) + "\n"


def _entry(fields: Mapping[str, str]) -> dict[str, Any]:
    """The entry of a line; raises ValueError where it is damaged."""
    entry: dict[str, Any] = {"path": fields["path"], "status": fields["status"]}
    done = fields["status"] == "ok"
    if not done:
        entry["reason"] = fields["reason"]
    for name, kind in _NUMBERS.items():
        if fields[name] or (done and name == "picks"):
            entry[name] = _sound(kind(fields[name]))
    if done:
        entry.setdefault("mean_score", None)
        entry.update(rejected({reason: _sound(int(fields[f"rejected_{reason}"] or 0)) for reason in REJECTED},
                              entry.get("candidates", 0)))
    return entry


def _sound(value: Any) -> Any:
    if not abs(value) < _MAX_VALUE:
        raise ValueError(f"{value} is no figure of a micrograph")
    return value


_BLANKS = str.maketrans("\t\r\n", "   ")
