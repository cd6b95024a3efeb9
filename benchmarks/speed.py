# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of DeepEM, compared with plain implementations, the peak performance of the machine and other pickers.

    python benchmarks/speed.py [--parts NAME ...] [--against COMMIT] [--topaz PROGRAM] [--data FOLDER]

Parts: `scan` (compared with the scan box by box), `single` (the whole program on one small micrograph), `pick` (the
whole program on EMPIAR-10017, with Topaz and RELION's LoG picker if they are installed), `training` (updates, compared
with plain Keras), `train` (whole trainings), `growth` (time and memory as functions of the area and number of
micrographs; draws docs/performance.png), `unlabelled` (what starts from the general model), `reading` (stages of
reading, see reading.py), `folder` (a results folder of 100 000 micrographs). Times are medians of several runs after a
warm-up run. The script prints tables in Markdown and writes them with all figures to benchmarks/results/speed.md and
.json. Topaz needs a separate environment: `python -m venv E; E/bin/pip install topaz-em`, then `--topaz E/bin/topaz`.

With --against the parts are run with the code of another commit as well, alternately with that of this working tree
(--rounds times each), and all times are given with their ratio (then over now, smallest of each).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RESULTS, ROOT, add_data_option, processor, table, title
from reading import reading
from speed_growth import folder, growth
from speed_programs import pick, single, unlabelled
from speed_scan import scan
from speed_training import train, training

PARTS = {"scan": scan, "single": single, "pick": pick, "training": training,
         "train": train, "unlabelled": unlabelled, "growth": growth, "reading": reading, "folder": folder}


def measure(options):
    """Run the parts with the code that is imported, and write tables and figures."""
    from deepem_scipion.deepem import runtime

    device = (runtime.start_keras if hasattr(runtime, "start_keras") else runtime.start)()  # of earlier commits
    import keras

    keras.utils.set_random_seed(0)
    lines = [f"{title()}; {device}, {processor()}", ""]
    figures = {}
    for name in options.parts:
        figures[name], text = PARTS[name](options)
        lines += text
        (options.results / "speed.md").write_text("\n".join(lines))
        (options.results / "speed.json").write_text(json.dumps(figures, indent=1))
    return lines


def compare(options):
    """Run the parts alternately with the code of another commit and with this one; tables of times and ratios."""
    options.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        other = Path(work) / "tree"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", other, options.against], check=True,
                       capture_output=True)
        try:
            lines = [f"{title()}; {processor()}", ""]
            for part in options.parts:
                found = alternated((other, ROOT), part, options, Path(work))
                lines += [f"### {part}", "", *ratios(found[other], found[ROOT], options.against)]
                (options.results / "against.md").write_text("\n".join(lines))
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", other], check=True)
    return lines


def alternated(trees, part, options, work):
    """Times of a part by tree: a list with one dictionary for each round."""
    found = {tree: [] for tree in trees}
    for _ in range(options.rounds):
        for tree in trees:
            found[tree].append(times_of(tree, part, options, work))
    return found


def times_of(tree, part, options, work):
    """Run one part with the code of a tree; seconds by name. None if that code cannot run it."""
    more = ["--topaz", options.topaz] if options.topaz else []
    # In another folder: that from which `python -m` is started comes before PYTHONPATH.
    done = subprocess.run([sys.executable, __file__, "--parts", part, "--results", work, "--data",
                           options.data.resolve(), "--repeats", str(options.repeats), *more], capture_output=True,
                          text=True, cwd=work, env={**os.environ, "PYTHONPATH": str(tree)})
    if done.returncode:
        print(f"{part} at {tree}: {done.stderr[-2000:]}", file=sys.stderr)
        return {}
    return dict(seconds_in(json.loads((work / "speed.json").read_text())[part]))


def seconds_in(figures):
    """Yield (name, seconds) of all times in the figures of a part: those whose key ends in `_s`."""
    if isinstance(figures, dict):
        for value in figures.values():
            yield from seconds_in(value)
        return
    for row in figures:
        name = ", ".join(str(value) for key, value in row.items()
                         if isinstance(value, str) or key in ("rows", "number", "layer"))
        yield from ((f"{name}: {key[:-2]}", value) for key, value in row.items()
                    if key.endswith("_s") and isinstance(value, float))


def ratios(before, now, commit):
    """Lines of a table that compares the smallest times of all rounds."""
    rows = [("what", f"{commit}, s", "now, s", "ratio")]
    for name in now[0]:
        old, new = (min((found[name] for found in rounds if name in found), default=None) for rounds in (before, now))
        rows.append((name, "-" if old is None else f"{old:.3g}", f"{new:.3g}",
                     "-" if old is None or new <= 0 else f"{old / new:.2f}"))
    return table(*rows)


def main():
    """Run the parts and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--against", metavar="COMMIT", help="compare with the code of this commit")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each code with --against")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables and figures")
    add_data_option(parser)
    parser.add_argument("--topaz", default=shutil.which("topaz"), help="the program topaz")
    parser.add_argument("--repeats", type=int, default=5, help="number of timed runs of `scan`, `single`, `reading`")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    print("\n".join(compare(options) if options.against else measure(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
