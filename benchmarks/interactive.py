# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy against the clicks and seconds of a simulated user of the studio, who knows the annotation.

    python benchmarks/interactive.py [--sets NAME ...] [--seeds N ...] [--rounds N] [--clicks N] [--splits N ...]

The session starts with the general model. In each round the user makes some clicks on one of the clicked micrographs:
missed particles are added and false positives removed, in random order, then the least certain true positives are
accepted; then the studio learns. A false positive stays where a model trained on all labels of the clicked
micrographs scores above its own threshold, because the annotation may be incomplete. A model that is worse on the marks
held out is not taken. F1 is that of the picks shown on the other micrographs, of which nothing is marked. Seconds are
one for each click, and the CPU time of learning and picking on one thread. For EMPIAR-10028 three micrographs are
clicked and two are scored, in all ten ways. On the images of KLH what does not count (see general_accuracy.py) is left
alone. The script prints a table in Markdown, and writes it to
benchmarks/results/interactive.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

import numpy as np
from common import PROGRAM, RESULTS, add_data_option, files, has_data, micrograph_names, table, title
from general_accuracy import ALL_SETS, NOT_COUNTED, without_ignored

CLICKED = {"apoferritin": 4, "empiar10017": 4, "empiar10028": 3, "klh_processed": 2}


def splits(name, names):
    """All pairs of clicked and scored micrographs."""
    n = CLICKED[name]
    chosen = combinations(names, n) if name == "empiar10028" else [names[:n]]
    return [(list(each), [other for other in names if other not in each]) for each in chosen]


def trained_on_all(data, folder, clicked, path):
    """Model trained on all labels of the clicked micrographs."""
    from deepem_scipion.deepem import load_model

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*PROGRAM, "train", "--micrographs", *files(folder, clicked, data.images), "--coordinates",
                        folder / "boxes", "--diameter", str(data.diameter_angst), "--output", path, "--threads", "1",
                        "--quiet"], check=True)
    return load_model(path)


def picks_of(model, folder, data, names):
    """Picks of a model with its own limits, by name of the micrograph."""
    from deepem_scipion.deepem import Picker

    picker = Picker(model)
    return {name: picker.pick(model.read_micrograph(path, name=name)).picks
            for name, path in zip(names, files(folder, names, data.images))}


def f1(picks, folder, data):
    """F1 of picks on the micrographs that they are on."""
    from deepem_scipion.deepem import evaluate, read_coordinates

    truth = {name: found for name, found in read_coordinates(folder / "boxes").items() if name in picks}
    picks = without_ignored(picks, truth, folder, data.distances_px[0])
    return evaluate(truth, picks, data.distances_px[0], data.region)["overall"]["F1"]


def trusted_places(oracle, folder, data, clicked):
    """What the user does not remove, by name of the micrograph: picks of a model, and places that do not count."""
    from deepem_scipion.deepem import read_coordinates

    not_counted = [read_coordinates(folder / kind) for kind in NOT_COUNTED if (folder / kind).is_dir()]
    kept = [picks_of(oracle, folder, data, clicked), *not_counted]
    return {name: np.concatenate([each[name].centres_xy for each in kept if name in each]) for name in clicked}


def cpu_seconds(state):
    """CPU time of the process of the studio."""
    return time.process_time()


class User:
    """Clicks in a session, at random among what is wrong."""

    def __init__(self, session, truth, trusted, data, seed):
        self.session, self.truth, self.trusted, self.data = session, truth, trusted, data
        self.rng = np.random.default_rng(seed)

    def click(self, name, number):
        """Make a number of clicks on a micrograph; returns how many were made."""
        from deepem_scipion.deepem.evaluation.matching import classify_picks

        distance = self.data.distances_px[0]
        picks = self.session.picks(name)
        found = classify_picks(picks.centres_xy, np.nan_to_num(picks.scores, nan=1.0), self.truth[name].centres_xy,
                               distance, self.data.region)
        wrong = [place for place in found["false positives"]
                 if self.trusted and _distance(place, self.trusted[name]) > distance]
        todo = [("remove", place) for place in wrong] + [("add", place) for place in found["missed"]]
        todo = [todo[at] for at in self.rng.permutation(len(todo))]
        marked = [mark.values[:2] for mark in self.session.log.marks.get(name, ())]
        order = np.argsort(picks.scores)
        right = [place for place in picks.centres_xy[order] if _distance(place, found["true positives"]) < 1]
        todo += [("add", place) for place in right if _distance(place, marked) > distance]
        for action, (x, y) in todo[:number]:
            self.session.edit(self.session.names.index(name), {"action": action, "x": float(x), "y": float(y)})
        return len(todo[:number])


def _distance(place, others):
    return min((float(np.hypot(*(np.subtract(place, other)))) for other in others), default=np.inf)


def visit(folder, data, clicked, scored, oracle, options, seed):
    """One session; rows of clicks, seconds and F1, before the first round and after each."""
    from deepem_scipion.deepem import read_coordinates
    from deepem_scipion.deepem.studio import Session, Wanted, open_session
    from deepem_scipion.deepem.studio.queue import Queue
    from deepem_scipion.deepem.studio.teacher import Teacher
    from deepem_scipion.deepem.studio.worker import Worker

    truth = read_coordinates(folder / "boxes")
    trusted = oracle and trusted_places(oracle, folder, data, clicked)
    with tempfile.TemporaryDirectory() as work:
        project, settings = open_session(Wanted(files(folder, [*clicked, *scored], data.images), Path(work) / "session",
                                                diameter_angst=data.diameter_angst))
        session = Session(project, settings)
        queue = Queue(session, Worker(1))
        teacher, user = Teacher(session, queue), User(session, truth, trusted, data, seed)
        queue.start()

        def finish():
            """Wait until everything is learnt and picked; CPU time of that process so far."""
            while teacher.busy or session.waiting():
                time.sleep(0.1)
            used = []
            queue.add(lambda worker: used.append(worker.call(cpu_seconds)))
            while not used:
                time.sleep(0.1)
            return used[0]

        start, rows, clicks = finish(), [], 0
        rows.append((0, 0.0, f1({name: session.picks(name) for name in scored}, folder, data)))
        for number in range(options.rounds):
            clicks += user.click(clicked[number % len(clicked)], options.clicks)
            teacher.learn()
            rows.append((clicks, clicks + finish() - start,
                         f1({name: session.picks(name) for name in scored}, folder, data)))
            print(f"  {rows[-1]} {session.problem} {teacher.outcome}", file=sys.stderr, flush=True)
        queue.close()
        session.close()
        project.close()
    return rows


def lines(name, found):
    """Lines of the table for one set: means over sessions after each round."""
    results = np.array([rows for rows, _ in found])
    means, drops = results.mean(axis=0), np.diff(results[:, :, 2], axis=1)
    best = np.mean([all_labels for _, all_labels in found])
    return [(name if not at else "", len(found) if not at else "", f"{clicks:.0f}", f"{seconds:.0f}", f"{score:.3f}",
             f"{best:.3f}" if not at else "", f"{drops[:, at - 1].min():+.3f}" if at else "",
             f"{drops[:, at - 1].mean():+.3f}" if at else "") for at, (clicks, seconds, score) in enumerate(means)]


def main():
    """Let the user click, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="+", choices=CLICKED, default=list(CLICKED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=10, help="in each round")
    parser.add_argument("--splits", type=int, nargs="+", default=range(10), help="of the ten ways on "
                        "EMPIAR-10028 those with these numbers, from 0 to 9")
    parser.add_argument("--add-only", action="store_true", help="the user removes nothing, and no model is trained on "
                        "all labels to compare with")
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    header = ("set", "sessions", "clicks", "seconds", "F1", "F1 of a model trained on all labels",
              "largest loss in a round", "mean change")
    results, text = {}, ""
    for seed in options.seeds:
        for name in options.sets:
            data, folder = ALL_SETS[name], options.data / name
            for number, (clicked, scored) in enumerate(splits(name, micrograph_names(folder, data.images))):
                if name == "empiar10028" and number not in options.splits:
                    continue
                print(f"{name}, split {number}, seed {seed}", file=sys.stderr, flush=True)
                oracle, best = None, np.nan
                if not options.add_only:
                    oracle = trained_on_all(data, folder, clicked, RESULTS / "interactive" / f"{name}-{number}.deepem")
                    best = f1(picks_of(oracle, folder, data, scored), folder, data)
                rows = visit(folder, data, clicked, scored, oracle, options, seed)
                results.setdefault(name, []).append((rows, best))
                every = [line for each, found in results.items() for line in lines(each, found)]
                text = "\n".join([title(), "", *table(header, *every)])
                (RESULTS / "interactive.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
