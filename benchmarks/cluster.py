# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of a picking run with 100 000 micrographs on a cluster: each part measured, the whole run computed.

    python benchmarks/cluster.py [--parts NAME ...] [--nodes N] [--jobs N] [--micrographs N] [--data FOLDER]

Parts: `checks` (periodic checks of the protocol, against the number of micrographs), `steps` (Scipion's records of the
steps), `registration` (adding coordinates to Scipion's set, against its size), `files` (start-up of the program, files
and bytes of each micrograph; EMPIAR-10017), `scheduler` (Slurm on this machine, started by root), `cluster` (a run on a
cluster computed from the figures of all others, for several batch sizes). The script prints tables in Markdown and
writes them with all figures to benchmarks/results/cluster.{md,json}; figures of parts that are not selected are taken
from there.
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cluster_computed import REGISTERED, cluster
from common import PROGRAM, RESULTS, SETS, add_data_option, table, title
from timing import run

PICKS = 300  # particles of a micrograph


def timed(function):
    """Processor seconds of one call, to which other programs of the machine do not contribute."""
    began = time.process_time()
    function()
    return time.process_time() - began


def micrograph(number, path=None):
    """A Micrograph as created by an import."""
    from pwem.objects import Micrograph

    mic = Micrograph(str(path or f"Runs/000002_ProtImportMicrographs/extra/micrograph_{number:06d}.mrc"))
    mic.setMicName(f"micrograph_{number:06d}.mrc")
    mic.setSamplingRate(1.0)
    mic.setObjId(number)
    return mic


def with_micrographs(protocol, number):
    """Give a protocol this number of micrographs, every other one of them already picked."""
    from pwem.objects import SetOfMicrographs

    path = Path("micrographs.sqlite")
    path.unlink(missing_ok=True)
    micrographs = SetOfMicrographs(filename=str(path))
    micrographs.setSamplingRate(1.0)
    protocol.micDict, protocol.streamClosed, protocol.finished = {}, True, False
    for index in range(1, number + 1):
        mic = micrograph(index)
        micrographs.append(mic)
        protocol.micDict[mic.getMicName()] = mic
    micrographs.write()
    micrographs.close()
    protocol.getInputMicrographs = lambda: micrographs
    done = Path(protocol._getAllDone())
    shutil.rmtree(done.parent, ignore_errors=True)
    done.parent.mkdir(parents=True)
    for index in range(1, number + 1, 2):
        (done.parent / f"mic_{index:06d}.TXT").touch()
    done.write_text("".join(f"{index}\n" for index in range(1, number + 1, 2)))


def checks(options):
    """Seconds of a check that finds nothing new, by Scipion's base class and by the protocol."""
    from pwem.protocols import ProtParticlePickingAuto

    from deepem_scipion import convert
    from deepem_scipion.protocols import ProtDeepEMPick

    figures = []
    for number in options.sizes:
        found = {"micrographs": number}
        for name, protocol_class in (("framework", ProtParticlePickingAuto), ("deepem", ProtDeepEMPick)):
            protocol = protocol_class(workingDir=name)
            with_micrographs(protocol, number)
            protocol._checkNewInput()
            found[f"{name}_input_s"] = timed(protocol._checkNewInput)
            found[f"{name}_output_s"] = timed(protocol._checkNewOutput)
        found["names_s"] = timed(lambda p=protocol: convert.result_names(list(p.micDict.values())))
        figures.append(found)
        print(found, file=sys.stderr, flush=True)
    rows = [("micrographs", "new input, base class, s", "new output, base class, s", "both, DeepEM, s",
             "names of result files once, s")]
    rows += [(row["micrographs"], *(f"{row[key]:.3f}" for key in ("framework_input_s", "framework_output_s")),
              f"{row['deepem_input_s'] + row['deepem_output_s']:.3f}", f"{row['names_s']:.3f}") for row in figures]
    return figures, ["### A check that finds nothing new, half of the micrographs picked", "", *table(*rows)]


def steps(options):
    """Seconds that Scipion needs for its records of the steps, against their number."""
    from pyworkflow.protocol.executor import StepExecutor

    from deepem_scipion.protocols import ProtDeepEMPick

    figures = []
    for number in options.sizes:
        protocol = ProtDeepEMPick(workingDir=f"steps{number}")
        Path(protocol._getLogsPath()).mkdir(parents=True, exist_ok=True)
        arguments = ["--model", "Runs/000128_ProtDeepEMTrain/extra/model.safetensors"] * 4

        def insert(protocol=protocol, number=number, arguments=arguments):
            for index in range(number):
                protocol._insertFunctionStep("pickMicrographListStep", [f"micrograph_{index:06d}.mrc"] * 16, arguments,
                                             prerequisites=[])

        found = {"steps": number, "insert_s": timed(insert), "store_s": timed(protocol._storeSteps)}
        last = protocol._steps[-1]
        update = protocol._Protocol__updateStep
        update(last)
        found["update_s"] = statistics.median(timed(lambda u=update, s=last: u(s)) for _ in range(20))
        for step in protocol._steps[:-1]:
            step.setStatus("finished")
        found["search_s"] = timed(lambda p=protocol: StepExecutor(None)._getRunnable(p._steps, 20))
        found["bytes"] = os.path.getsize(protocol.getStepsFile()) / number
        figures.append(found)
        print(found, file=sys.stderr, flush=True)
    rows = [("steps", "inserting all, s", "storing all, s", "updating one, ms", "search for one that can start, ms",
             "bytes each")]
    rows += [(row["steps"], f"{row['insert_s']:.2f}", f"{row['store_s']:.2f}", f"{1e3 * row['update_s']:.1f}",
              f"{1e3 * row['search_s']:.1f}", f"{row['bytes']:.0f}") for row in figures]
    return figures, ["### Scipion's records of the steps (batches)", "", *table(*rows)]


def registration(options):
    """Seconds to add coordinates of some micrographs to a set of many coordinates."""
    import mrcfile
    from pwem.objects import SetOfCoordinates

    from deepem_scipion import convert
    from deepem_scipion.deepem import PickingResults
    from deepem_scipion.deepem.coordinates import write_box
    from deepem_scipion.protocols import ProtDeepEMPick

    image = Path("image.mrc").resolve()
    with mrcfile.new(image, overwrite=True) as file:
        file.set_data(np.zeros((4096, 4096), np.int8))
    results = PickingResults("picks")
    results.make()
    rng, figures = np.random.default_rng(0), []
    boxes = Path("micrograph.box")
    write_box(boxes, rng.uniform(0, 4095, (PICKS, 2)), rng.uniform(0, 1, PICKS), 200)
    turns = {turn: [micrograph(first + index, image) for index in range(REGISTERED)]
             for turn, first in (("first", 10**6), ("later", 2 * 10**6))}
    every = [mic for mics in turns.values() for mic in mics]
    for name in convert.result_names(every).values():
        shutil.copy(boxes, results.path("box", name))
    for size in options.coordinates:
        protocol = ProtDeepEMPick(workingDir="registration")
        protocol.micDict = {mic.getMicName(): mic for mic in every}
        path = Path("coordinates.sqlite")
        path.unlink(missing_ok=True)
        items = SetOfCoordinates(filename=str(path))
        if size:
            for item in convert.read_picks(boxes, micrograph(1, image)):
                items.append(item)
            items.write()
            items.close()
            multiply(path, size)
            items = SetOfCoordinates(filename=str(path))
            items.loadAllProperties()
            items._size.set(size)
        found = {"coordinates": size}
        for turn, mics in turns.items():
            # As the base class does with the micrographs picked since the last check.
            def register(items=items, protocol=protocol, mics=mics):
                items.enableAppend()
                protocol.readCoordsFromMics(str(results.folder), mics, items)
                items.write()
                items.close()

            found[f"{turn}_s"] = timed(register)
        found["all_ids_s"] = timed(lambda items=items: items.getUniqueValues("_micId"))
        items.close()
        found["bytes"] = path.stat().st_size / (size + 2 * REGISTERED * PICKS)
        figures.append(found)
        print(found, file=sys.stderr, flush=True)
    rows = [("coordinates before", "first time, s", "later, s", "list of its micrographs, s", "bytes each")]
    rows += [(f"{row['coordinates']:.0e}" if row["coordinates"] else "0", f"{row['first_s']:.2f}",
              f"{row['later_s']:.2f}", f"{row['all_ids_s']:.2f}", f"{row['bytes']:.0f}") for row in figures]
    return figures, [f"### Registration of {REGISTERED} micrographs with {PICKS} coordinates each", "", *table(*rows)]


def multiply(path, size):
    """Enlarge a set of coordinates to this size by copies of its rows for other micrographs."""
    with sqlite3.connect(path) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(Objects)")]
        mic = next(row[0] for row in database.execute("SELECT column_name FROM Classes WHERE label_property='_micId'"))
        values = ", ".join({"id": f"id + ? * {PICKS}", mic: "?"}.get(column, column) for column in columns)
        for number in range(1, size // PICKS):
            database.execute(f"INSERT INTO Objects SELECT {values} FROM Objects WHERE id <= {PICKS}",
                             (number, number + 1))


def files(options):
    """Start-up, time and memory of `deepem pick`, and the files and bytes that it writes."""
    folder = options.data / "empiar10017"
    micrographs = sorted((folder / "micrographs").glob("*"))
    if not micrographs:
        sys.exit(f"no micrographs in {folder}: give the folder of the annotated sets with --data")
    work = Path("files")
    work.mkdir()
    run([*PROGRAM, "train", "--micrographs", *micrographs[:4], "--coordinates", folder / "boxes", "--diameter",
         SETS["empiar10017"].diameter_angst, "--epochs", 2, "--output", work / "model"])
    figures = []
    for number in (1, len(micrographs)):
        out = work / f"out{number}"
        _, peak, seconds = run([*PROGRAM, "pick", "--model", work / "model", "--micrographs", *micrographs[:number],
                                "--threads", 1, "--output", out])
        each = [path for path in out.rglob("*") if path.stem in {path.stem for path in micrographs}]
        figures.append({"micrographs": number, "seconds": seconds, "peak_mib": peak, "files": len(each) / number,
                        "bytes": sum(path.stat().st_size for path in each) / number,
                        "read": sum(path.stat().st_size for path in micrographs[:number]) / number})
    each_s = (figures[1]["seconds"] - figures[0]["seconds"]) / (figures[1]["micrographs"] - 1)
    found = {**figures[1], "seconds": each_s, "startup_s": figures[0]["seconds"] - each_s}
    rows = [("start-up, s", "s per micrograph", "peak memory, MiB", "read per micrograph, MiB",
             "files per micrograph", "written per micrograph, kiB"),
            (f"{found['startup_s']:.1f}", f"{found['seconds']:.2f}", f"{found['peak_mib']:.0f}",
             f"{found['read'] / 2**20:.0f}", f"{found['files']:.0f}", f"{found['bytes'] / 2**10:.0f}")]
    return found, ["### One thread of `deepem pick` on EMPIAR-10017", "", *table(*rows)]


def scheduler(options):
    """Seconds of Slurm's commands with few and many jobs, and until a job starts and ends."""
    from deepem_scipion.tests import slurm

    figures = []
    with slurm.slurm(cpus=8, gpus=0):
        for waiting in (0, 1000):
            for _ in range(waiting):
                subprocess.run(["sbatch", "--begin=now+1hour", "--wrap", "true"], check=True, capture_output=True)
            submits, starts, ends = [], [], []
            for _ in range(10):
                began = time.perf_counter()
                job = subprocess.run(["sbatch", "--wrap", "date +%s.%N > started"], check=True, capture_output=True,
                                     text=True).stdout.split()[-1]
                submits.append(time.perf_counter() - began)
                wall = time.time() - submits[-1]
                while subprocess.run(["squeue", "-h", "-j", job], check=True, capture_output=True).stdout:
                    time.sleep(0.05)
                ends.append(time.perf_counter() - began)
                starts.append(float(Path("started").read_text()) - wall)
            polls = []
            for _ in range(20):
                began = time.perf_counter()
                subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], check=True, capture_output=True)
                polls.append(time.perf_counter() - began)
            figures.append({"waiting": waiting, "submit_s": statistics.median(submits),
                            "start_s": statistics.median(starts), "empty_job_s": statistics.median(ends),
                            "poll_s": statistics.median(polls)})
            print(figures[-1], file=sys.stderr, flush=True)
    rows = [("other jobs waiting", "sbatch, ms", "until a job starts, s", "until an empty job has ended, s",
             "squeue, ms")]
    rows += [(row["waiting"], f"{1e3 * row['submit_s']:.0f}", f"{row['start_s']:.1f}", f"{row['empty_job_s']:.1f}",
              f"{1e3 * row['poll_s']:.0f}") for row in figures]
    return figures, ["### Slurm 22.05 on this machine", "", *table(*rows)]


PARTS = {"checks": checks, "steps": steps, "registration": registration, "files": files, "scheduler": scheduler,
         "cluster": cluster}


def main():
    """Run the parts and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add_data_option(parser)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000, 100000],
                        help="numbers of micrographs for `checks`, of steps for `steps`")
    parser.add_argument("--coordinates", type=int, nargs="+", default=[0, 10**5, 10**6, 10**7],
                        help="sizes of the set for `registration`")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=16, help="batches at a time on each node, one per core")
    parser.add_argument("--micrographs", type=int, default=100000)
    parser.add_argument("--seconds", type=float, nargs="*", default=[3.7],
                        help="times of one core per micrograph for `cluster`, besides that of `files`")
    options = parser.parse_args()
    os.environ["SCIPION_DOMAIN"] = "pwem"
    from pyworkflow import Config

    Config.getDomain().getProtocols()
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = RESULTS / "cluster.json"
    stored = json.loads(results.read_text()) if results.exists() else {}
    options.figures, texts = stored.get("figures", {}), stored.get("texts", {})
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="deepem-cluster-") as work:
        for name in options.parts:
            os.chdir(work)
            try:
                options.figures[name], texts[name] = PARTS[name](options)
            finally:
                os.chdir(here)
            results.write_text(json.dumps({"figures": options.figures, "texts": texts}, indent=1))
    lines = [title(), ""]
    lines += [line for name in PARTS for line in texts.get(name, [])]
    (RESULTS / "cluster.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
