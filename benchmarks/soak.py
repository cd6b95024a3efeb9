# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streaming in Scipion with a picking run that is killed and continued: nothing is lost or duplicated.

    python benchmarks/soak.py [--micrographs N] [--kills N] [--corrupt N] [--rate R] [--batch N] [--seed N]

Small simulated micrographs of several sizes, some of them truncated, arrive in a folder that is imported in streaming.
The picking run, its worker, or both are killed at random times, and the run is continued. In the end every good
micrograph must have exactly the coordinates of an undisturbed run on all micrographs, and every corrupt one must be
listed as failed. The script prints a table in Markdown; its exit status is 1 if anything was lost, duplicated or
different.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from common import PROGRAM, processor, table, title

PIXEL_ANGST, DIAMETER_ANGST = 10.0, 400.0
SHAPES = ((480, 640), (512, 512), (600, 520), (448, 704))
TRAINING = 8
EPOCHS = 2
IMPORT_ENDS_S = 15  # after the last micrograph
DEADLINE_S = 1500
VICTIMS = ("the run", "its worker", "both")
RUN, WORKER = "pw_protocol_run.py", "worker"  # ends of words in command lines


def simulate(folder, number, seed):
    """Simulate micrographs of several sizes; their files in the order of arrival."""
    from deepem_scipion.deepem.simulation import Scene, write_dataset

    files = []
    for index, shape in enumerate(SHAPES):
        scene = Scene(shape=shape, pixel_size_angst=PIXEL_ANGST, diameter_angst=DIAMETER_ANGST, n_particles=12,
                      snr=0.5)
        write_dataset(folder, scene, -(-number // len(SHAPES)), seed + index, prefix=f"size{index}")
        files.append(sorted((folder / "micrographs").glob(f"size{index}_*.mrc")))
    return [file for several in zip(*files) for file in several][:number]


def train(folder, files):
    """Train a model on a few of the micrographs."""
    model = folder / "model.safetensors"
    subprocess.run([*PROGRAM, "train", "--micrographs", *files, "--coordinates", folder / "boxes", "--diameter",
                    str(DIAMETER_ANGST), "--epochs", str(EPOCHS), "--output", model],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return model


def running(name):
    """Descendant processes with a word in their command line that ends with this name."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                process.wait(timeout=0)  # otherwise the project regards a run killed at its start as alive
            elif any(word.endswith(name) for word in process.cmdline()):
                found.append(process)
    return found


def memory_mib(processes):
    """Resident memory of each process that still exists, by its id."""
    found = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = process.memory_info().rss / 2**20
    return found


class Soak:
    """A project with a streaming import and the picking runs."""

    def __init__(self, folder, options):
        from pyworkflow import Config
        from pyworkflow.project import Manager

        Config.getDomain().getProtocols()
        self.options, self.incoming = options, folder / "incoming"
        self.incoming.mkdir()
        self.project = Manager().createProject("Soak")
        os.chdir(self.project.path)
        self.memory = {}  # process id of a worker: its memory over time
        self.arrived = {}  # name of a micrograph: time of its arrival

    def import_model(self, model):
        """Import the model."""
        from deepem_scipion.protocols import ProtDeepEMImportModel

        self.model = self.project.newProtocol(ProtDeepEMImportModel, modelFile=str(model))
        self.project.launchProtocol(self.model, wait=True)

    def import_micrographs(self):
        """Start the streaming import."""
        from pwem.protocols import ProtImportMicrographs

        self.mics = self.project.newProtocol(
            ProtImportMicrographs, filesPath=str(self.incoming), filesPattern="*.mrc", samplingRate=PIXEL_ANGST,
            dataStreaming=True, timeout=str(IMPORT_ENDS_S), fileTimeout="1")
        self.project.launchProtocol(self.mics, wait=False)
        self.until(lambda: hasattr(self.mics, "outputMicrographs"), self.mics)
        self.importer, = running(RUN)

    def feed(self, files):
        """Let micrographs arrive at the rate of the options; the corrupt ones, evenly spaced, are truncated."""
        corrupt = set(np.linspace(1, len(files) - 2, self.options.corrupt).astype(int).tolist())
        began = time.time()
        for number, file in enumerate(files):
            time.sleep(max(0, began + number / self.options.rate - time.time()))
            content = file.read_bytes()
            aside = self.incoming / "arriving"
            aside.write_bytes(content[:len(content) // 2] if number in corrupt else content)
            name = f"{'corrupt' if number in corrupt else 'mic'}_{number:04d}.mrc"
            aside.rename(self.incoming / name)
            self.arrived[name] = time.time()

    def new_pick(self):
        """Return a picking run that has not been started."""
        from deepem_scipion.protocols import ProtDeepEMPick

        pick = self.project.newProtocol(ProtDeepEMPick, streamingBatchSize=self.options.batch,
                                        numberOfThreads=2, binThreads=self.options.threads)
        for pointer, run, output in ((pick.inputMicrographs, self.mics, "outputMicrographs"),
                                     (pick.inputModel, self.model, "outputModel")):
            pointer.set(run)
            pointer.setExtended(output)
        return pick

    def until(self, condition, run):
        """Update a run until the condition holds, and record the memory of the workers."""
        while not condition():
            if time.time() > self.deadline:
                raise SystemExit(f"{run} took too long")
            time.sleep(0.5)
            for pid, mib in memory_mib(running(WORKER)).items():
                self.memory.setdefault(pid, []).append(mib)
            self.project._updateProtocol(run, checkPid=True)

    def pick_and_kill(self, times):
        """Pick, kill at these times and continue; the finished run and the names of the victims."""
        pick, killed = self.new_pick(), []
        self.project.launchProtocol(pick, wait=False)
        for when, victim in zip(times, itertools.cycle(VICTIMS)):
            self.until(lambda when=when: time.time() >= when and running(WORKER) or not pick.isActive(), pick)
            runs = [process for process in running(RUN) if process != self.importer]
            victims = {VICTIMS[0]: runs, VICTIMS[1]: running(WORKER), VICTIMS[2]: runs + running(WORKER)}[victim]
            for process in victims:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            killed.append(victim if victims else f"{victim} (not running)")
            psutil.wait_procs(victims, timeout=30)
            running(RUN)
            self.project._updateProtocol(pick, checkPid=True)
            if not pick.isActive():
                self.project.launchProtocol(pick, wait=False)
        self.until(lambda: not pick.isActive(), pick)
        return pick, killed

    def delays_s(self, pick, names):
        """Seconds from the arrival of micrographs to the end of their picking."""
        return [os.path.getmtime(pick._getMicDone(mic)) - self.arrived[mic.getMicName()]
                for mic in self.mics.outputMicrographs if mic.getMicName() in names]


def coordinates_of(pick):
    """Sorted positions and scores by name of the micrograph."""
    found = {}
    for item in pick.outputCoordinates:
        found.setdefault(item.getMicName(), []).append((*item.getPosition(), item._deepemScore.get()))
    return {name: sorted(rows) for name, rows in found.items()}


def soak(folder, options):
    """Run everything; the rows of the table and whether the test passed."""
    rng = np.random.default_rng(options.seed)
    files = simulate(folder, options.micrographs + TRAINING, options.seed)
    model = train(folder, files[:TRAINING])
    test = Soak(folder, options)
    test.deadline = time.time() + DEADLINE_S
    test.import_model(model)
    feeder = threading.Thread(target=test.feed, args=[files[TRAINING:]], daemon=True)
    feeder.start()
    test.import_micrographs()
    seconds = options.micrographs / options.rate
    # The first worker should have started, and the last one should have micrographs left.
    kill_times = time.time() + np.sort(rng.uniform(min(10, 0.3 * seconds), seconds, options.kills))
    disturbed, killed = test.pick_and_kill(kill_times)
    test.until(lambda: not test.mics.isActive(), test.mics)

    test.memory, undisturbed = {}, test.new_pick()
    began = time.time()
    test.project.launchProtocol(undisturbed, wait=False)
    test.until(lambda: not undisturbed.isActive(), undisturbed)
    seconds = time.time() - began

    found, expected = coordinates_of(disturbed), coordinates_of(undisturbed)
    good = [name for name in test.arrived if not name.startswith("corrupt")]
    failed = {f"{name}.mrc" for name, result in disturbed.getResults().read_micrographs().items()
              if not result.ok}
    same = sum(found.get(name, []) == expected.get(name, []) for name in good)
    passed = (same == len(good) and failed == set(test.arrived) - set(good) and disturbed.isFinished()
              and disturbed.outputCoordinates.getSize() == undisturbed.outputCoordinates.getSize())
    delays, memory = test.delays_s(disturbed, good), max(test.memory.values(), key=len)
    times = sorted(test.arrived.values())
    return [
        ("micrographs, of these corrupt", f"{len(test.arrived)}, {len(test.arrived) - len(good)}"),
        ("killed", ", ".join(killed)),
        ("good micrographs with exactly the coordinates of the undisturbed run", f"{same} of {len(good)}"),
        ("coordinates; of the undisturbed run", f"{sum(map(len, found.values()))}; "
                                                f"{sum(map(len, expected.values()))}"),
        ("corrupt micrographs listed as failed", f"{len(failed)}"),
        ("comment of the output", disturbed.outputCoordinates.getObjComment().splitlines()[-1]),
        ("micrographs arrived per second", f"{(len(times) - 1) / (times[-1] - times[0]):.2f}"),
        ("micrographs per second of the undisturbed run, with its start-up", f"{len(times) / seconds:.2f}"),
        ("seconds from the arrival of a good micrograph to its picks, median and maximum",
         f"{np.median(delays):.0f}, {max(delays):.0f}"),
        ("memory of the worker of the undisturbed run at ten times, MiB",
         " ".join(f"{memory[index]:.0f}" for index in np.linspace(0, len(memory) - 1, 11).astype(int)[1:])),
    ], passed


def main():
    """Run the test and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micrographs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--corrupt", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1.0, help="micrographs per second")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the picking program")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from deepem_scipion.headless.demo import prepare_home

    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="deepem-soak-") as name:
        os.environ.update(prepare_home(Path(name) / "home"), SCIPION_EM_NEW_FILE_CHECK_SEC="1")
        try:
            rows, passed = soak(Path(name), options)
        finally:
            os.chdir(here)
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    print(f"{title()}; {options.threads} threads for the program, {processor()}\n")
    print("\n".join(table(("", ""), *rows)))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
