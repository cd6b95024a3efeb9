# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of DeepEM, compared with plain implementations, the peak performance of the machine and other pickers.

    python benchmarks/speed.py [--parts NAME ...] [--topaz PROGRAM] [--data FOLDER]

Parts: `scan` (compared with the scan box by
box), `pick` (the whole program on EMPIAR-10017, with Topaz and RELION's LoG picker if they are installed), `training`
(compared with plain Keras), `growth` (time and memory as functions of the area and number of micrographs; draws
docs/performance.png). Times are medians of several runs after a warm-up run. The script prints tables in Markdown and
writes them with all figures to benchmarks/results/speed.{md,json}. Topaz needs a separate environment: `python -m venv
E; E/bin/pip install topaz-em`, then `--topaz E/bin/topaz`.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import PROGRAM, RESULTS, ROOT, SETS, add_data_option, processor, table, title

# Shape of the micrograph and scan step, both in binned pixels, by name of the network.
SCANS = {"klh": ((2048, 2048), 20), "19s": ((1855, 1919), 20), "26s": ((1855, 1919), 20),
         "inflammasome": ((1855, 1919), 20), "auto": ((1024, 1024), 2)}
SAMPLE = {"klh": 64, "auto": 2048}  # boxes timed one by one; 256 for the other networks
EMPIAR_DIAMETER_ANGST = SETS["empiar10017"].diameter_angst


def geometry_of(name):
    """Geometry of a preset, or the automatic geometry."""
    from deepem_scipion.deepem.network import PRESETS, auto_geometry
    from deepem_scipion.deepem.network.geometry import AUTO_DIAMETER_PX

    return PRESETS.get(name) or auto_geometry(AUTO_DIAMETER_PX)


def initial_weights(geometry):
    """Weights of an untrained network; times do not depend on them."""
    from deepem_scipion.deepem.network import build_network, get_weights
    from deepem_scipion.deepem.network.architecture import scale_initial_weights

    network = build_network(geometry)
    scale_initial_weights(network)
    return get_weights(network, geometry)


def seconds(function, repeats=5):
    """Median seconds of several calls after a warm-up call."""
    function()
    return statistics.median(timed(function) for _ in range(repeats))


def timed(function):
    """Seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def operations(geometry, shape, step, n_boxes):
    """Floating-point operations of all four rotations: box by box, and with shared direct convolutions."""
    plain, shared, channels = 0, 0, 1
    area, pixels = shape[0] * shape[1], step
    for kernel, pool, maps, side in zip(geometry.kernels, geometry.pools, geometry.maps, geometry.layer_sizes[::2]):
        each = 2 * kernel**2 * channels * maps
        plain += each * side**2 * n_boxes * 4
        shared += each * area * 4
        classes = pool // math.gcd(pixels, pool)
        area, pixels, channels = area * classes**2 / pool**2, pixels // math.gcd(pixels, pool), maps
    return plain, shared


def peak_flops():
    """Operations per second of a matrix product, the peak performance of the machine."""
    import tensorflow as tf

    matrix = tf.ones((4096, 4096))
    return 2 * 4096**3 / seconds(lambda: tf.linalg.matmul(matrix, matrix))


def scan(options):
    """Compare the fast scan with the network box by box, on the same random micrograph."""
    from deepem_scipion.deepem.network import Scanner, build_network, set_weights

    peak = peak_flops()
    figures = []
    for name, (shape, step) in SCANS.items():
        geometry = geometry_of(name)
        weights = initial_weights(geometry)
        pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        network = build_network(geometry)
        set_weights(network, weights)
        sample = SAMPLE.get(name, 256)
        boxes = np.lib.stride_tricks.sliding_window_view(pixels, (geometry.box,) * 2)[::step, ::step]
        rows, cols = boxes.shape[:2]
        places = np.random.default_rng(1).integers(0, (rows, cols), (sample, 2))
        batch = boxes[places[:, 0], places[:, 1], ..., np.newaxis]
        scanner = Scanner(geometry, [weights], step)
        scanner.scan(pixels)
        network(batch, training=False)
        fast, plain = [], []
        for _ in range(options.repeats):  # alternating, so that other processes affect both equally
            fast.append(timed(lambda scanner=scanner, pixels=pixels: scanner.scan(pixels)))
            plain.append(timed(lambda network=network, batch=batch: np.asarray(network(batch, training=False))))
        total = rows * cols * 4
        reference = statistics.median(plain) / sample * total
        flops = operations(geometry, shape, step, rows * cols)
        figures.append({"network": name, "shape": shape, "step": step, "boxes": rows * cols, "sample": sample,
                        "reference_s": reference, "scan_s": statistics.median(fast), "scan_s_all": fast,
                        "ratio": reference / statistics.median(fast), "reference_gflop": flops[0] / 1e9,
                        "shared_gflop": flops[1] / 1e9, "peak_gflops": peak / 1e9})
        print(name, figures[-1], file=sys.stderr, flush=True)
    rows = [("network", "micrograph", "step", "boxes", "box by box, s (boxes timed)", "scan, s", "ratio",
             "operations, G: box by box", "shared", "shared at peak performance, s")]
    rows += [(row["network"], f"{row['shape'][0]} x {row['shape'][1]}", row["step"], row["boxes"],
              f"{row['reference_s']:.0f} ({row['sample']})", f"{row['scan_s']:.2f}", f"{row['ratio']:.0f}",
              f"{row['reference_gflop']:.0f}", f"{row['shared_gflop']:.0f}",
              f"{row['shared_gflop'] / row['peak_gflops']:.2f}") for row in figures]
    return figures, [f"### Scan (matrix products reach {peak / 1e9:.0f} GFLOP/s)", "", *table(*rows)]


def pick(options):
    """Time whole programs on EMPIAR-10017; start-up is the time of one micrograph minus that of a further one."""
    folder = options.data / "empiar10017"
    if not folder.is_dir():
        return [], [f"`pick` skipped: no {folder}", ""]
    micrographs = sorted((folder / "micrographs").glob("*.mrc"))
    figures = []
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        model = work / "model.deepem"
        run([*PROGRAM, "train", "--micrographs", *micrographs[:8], "--coordinates", folder / "boxes", "--diameter",
             EMPIAR_DIAMETER_ANGST, "--output", model])
        many = work / "many.txt"
        many.write_text("".join(f"{path}\t{path.stem}_{i}\n" for i in range(4) for path in micrographs))
        one = work / "one.txt"
        one.write_text(f"{micrographs[0]}\n")

        def deepem(which, threads=None):
            return run([*PROGRAM, "pick", "--model", model, "--micrographs", which, "--output", work / which.stem,
                        *(["--threads", threads] if threads else [])])

        for threads in (None, 1):
            name = f"deepem pick --threads {threads}" if threads else "deepem pick"
            figures.append(per_micrograph(name, 4 * len(micrographs), lambda threads=threads: deepem(one, threads),
                                          lambda threads=threads: deepem(many, threads)))
        if options.topaz:
            images = work / "topaz"
            images.mkdir()
            preprocess = [options.topaz, "preprocess", "-s", "4", "-o", images]

            def topaz(paths):
                return run([options.topaz, "extract", "-m", "resnet8_u64", "-r", "7", "-x", "4", "-d", "-1", "-o",
                            work / "topaz.txt", *paths])

            prepared = run([*preprocess, *micrographs[:6]])
            downsampled = sorted(images.glob("*.mrc"))
            figures.append(per_micrograph("topaz extract (resnet8_u64, binned by 4; preprocessing not counted)", 6,
                                          lambda: topaz(downsampled[:1]), lambda: topaz(downsampled)))
            figures[-1]["preprocess_s"] = prepared[0] / 6
        if shutil.which("relion_autopick"):
            for path in micrographs:
                (work / path.name).symlink_to(path)

            def relion(pattern, folder):
                return run(["relion_autopick", "--i", pattern, "--odir", f"{folder}/", "--pickname", "autopick",
                            "--LoG", "--LoG_diam_min", EMPIAR_DIAMETER_ANGST * 0.9, "--LoG_diam_max",
                            EMPIAR_DIAMETER_ANGST * 1.1, "--lowpass", "20", "--angpix", "3.54"], cwd=work)

            figures.append(per_micrograph("relion_autopick --LoG", len(micrographs),
                                          lambda: relion(micrographs[0].name, "one"), lambda: relion("*.mrc", "all")))
    rows = [("program", "s per micrograph after start-up", "start-up, s", "peak memory, MiB")]
    rows += [(row["program"], f"{row['seconds']:.2f}", f"{row['startup_s']:.1f}", f"{row['peak_mib']:.0f}")
             for row in figures]
    return figures, ["### Whole programs, EMPIAR-10017 (2048 x 2048)", "", *table(*rows)]


def run(command, cwd=None):
    """Run a program; seconds and peak memory in MiB."""
    code = ("import resource, subprocess, sys, time; t = time.perf_counter(); "
            "done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
            "sys.exit(done.stderr[-2000:]) if done.returncode else "
            "print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)")
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr}")
    return tuple(map(float, done.stdout.split()))


def per_micrograph(program, number, one, many):
    """Time per micrograph from a run with one micrograph and a run with many."""
    one()
    (first, _), (all_of_them, peak) = one(), many()
    each = (all_of_them - first) / (number - 1)
    found = {"program": program, "micrographs": number, "seconds": each, "startup_s": first - each, "peak_mib": peak}
    print(found, file=sys.stderr, flush=True)
    return found


def training(options):
    """Seconds per epoch of both training presets, and of `paper` with plain Keras layers and `fit`."""
    import keras

    from deepem_scipion.deepem.network import build_network
    from deepem_scipion.deepem.training import TRAINING_PRESETS
    from deepem_scipion.deepem.training.batches import MIN_BATCH, PIXELS_PER_BATCH
    from deepem_scipion.deepem.training.losses import compile_network, half_mean_squared_error

    rng = np.random.default_rng(0)
    figures = []
    for name, n_boxes in (("klh", 1600), ("19s", 1600), ("26s", 1600), ("inflammasome", 1600), ("auto", 10000)):
        geometry, paper, default = geometry_of(name), TRAINING_PRESETS["paper"], TRAINING_PRESETS["default"]
        updates = -(-4 * n_boxes // paper.batch)
        timed_updates = {"klh": 1, "auto": 100}.get(name, 5)
        pixels = rng.normal(size=(paper.batch * timed_updates, geometry.box, geometry.box, 1)).astype(np.float32)
        targets = rng.integers(0, 2, (len(pixels), 1)).astype(np.float32)
        plain = keras.Sequential([keras.Input((geometry.box, geometry.box, 1))])
        for kernel, pool, maps in zip(geometry.kernels, geometry.pools, geometry.maps):
            plain.add(keras.layers.Conv2D(maps, kernel, activation="sigmoid"))
            plain.add(keras.layers.AveragePooling2D(pool))
        plain.add(keras.layers.Flatten())
        plain.add(keras.layers.Dense(1, activation="sigmoid"))
        plain.compile(keras.optimizers.SGD(1.0), half_mean_squared_error)
        paper_network = build_network(geometry, fully_convolutional=True)
        compile_network(paper_network, paper, 100)

        def epoch(network=paper_network, pixels=pixels, targets=targets, batch=paper.batch):
            for first in range(0, len(pixels), batch):
                network.train_on_batch(pixels[first:first + batch], targets[first:first + batch, :, None, None])

        crop_network = build_network(geometry, fully_convolutional=True)
        compile_network(crop_network, default, 100)
        side = geometry.box + int(np.prod(geometry.pools)) * (default.crop - 1)
        batch = max(MIN_BATCH, min(default.batch, PIXELS_PER_BATCH // side**2))
        crops = rng.normal(size=(batch, side, side, 1)).astype(np.float32)
        labels = rng.integers(-1, 2, (batch, default.crop, default.crop, 1)).astype(np.float32)

        def epoch_of_crops(network=crop_network, crops=crops, labels=labels, n=timed_updates):
            for _ in range(n):
                network.train_on_batch(crops, labels)

        repeats = 1 if name == "klh" else 3
        with_plain = seconds(lambda plain=plain, x=pixels, y=targets: plain.fit(x, y, batch_size=50, verbose=0),
                             repeats)
        scale = updates / timed_updates
        figures.append({"network": name, "boxes": 4 * n_boxes, "updates_timed": timed_updates,
                        "keras_s": with_plain * scale, "paper_s": seconds(epoch, repeats) * scale,
                        "default_s": seconds(epoch_of_crops, repeats) / timed_updates * default.updates_per_epoch,
                        "default_boxes": batch * default.crop**2 * default.updates_per_epoch})
        print(figures[-1], file=sys.stderr, flush=True)
    rows = [("network", "boxes", "plain Keras, s", "preset `paper`, s", "ratio", "preset `default`, s (boxes)",
             "boxes per second, `default` / plain Keras")]
    rows += [(row["network"], row["boxes"], f"{row['keras_s']:.0f}", f"{row['paper_s']:.1f}",
              f"{row['keras_s'] / row['paper_s']:.1f}", f"{row['default_s']:.1f} ({row['default_boxes']})",
              f"{row['default_boxes'] / row['default_s'] / (row['boxes'] / row['keras_s']):.1f}")
             for row in figures]
    return figures, ["### Training: seconds per epoch", "", *table(*rows)]


def growth(options):
    """Time and memory of picking as functions of the area and number of micrographs."""
    code = """
import json, resource, sys, time
from pathlib import Path
import mrcfile, numpy as np
from deepem_scipion.deepem import Model, Picker, pick_micrographs, runtime
from deepem_scipion.deepem.network import auto_geometry
sys.path.insert(0, sys.argv[1])
from speed import initial_weights
work, rows, cols, binning, number = Path(sys.argv[2]), *map(int, sys.argv[3:7])
path = work / f"{rows}.mrc"
if not path.exists():
    with mrcfile.new(path) as file:
        file.set_data(np.random.default_rng(0).standard_normal((rows, cols), np.float32))
runtime.start()
geometry = auto_geometry(27)
model = Model(geometry, (initial_weights(geometry),), float(binning), 27.0 * binning, 4, (0.0, 9.0), 0.5)
picker = Picker(model)
names = {f"m{i}": path for i in range(number)}
pick_micrographs(dict(list(names.items())[:1]), picker, work / "out", pixel_size_angst=1.0)
began = time.perf_counter()
results = pick_micrographs(names, picker, work / "out", pixel_size_angst=1.0)
assert not any(result.reason for result in results.values())
print(json.dumps({"seconds": (time.perf_counter() - began) / number,
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
    figures = {"area": [], "number": []}
    with tempfile.TemporaryDirectory() as work:
        def measure(rows, cols, binning, number):
            done = subprocess.run([sys.executable, "-c", code, Path(__file__).parent, work,
                                   *map(str, (rows, cols, binning, number))], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = {"rows": rows, "cols": cols, "binning": binning, "number": number,
                     **json.loads(done.stdout.splitlines()[-1])}
            print(found, file=sys.stderr, flush=True)
            return found

        for rows, cols, binning in ((512, 512, 1), (1024, 1024, 1), (2048, 2048, 1), (4096, 4096, 1), (8192, 8192, 1),
                                    (8184, 11520, 4)):
            figures["area"].append(measure(rows, cols, binning, 6 if rows < 8000 else 4))
        for number in (1, 10, 100, 1000):
            figures["number"].append(measure(1024, 1024, 2, number))
    draw_growth(figures, ROOT / "docs" / "performance.png")
    rows = [("micrograph, px", "binning", "micrographs", "s per micrograph", "ns per binned pixel",
             "peak memory, MiB")]
    rows += [(f"{row['rows']} x {row['cols']}", row["binning"], row["number"], f"{row['seconds']:.3f}",
              f"{1e9 * row['seconds'] * row['binning']**2 / row['rows'] / row['cols']:.0f}", f"{row['peak_mib']:.0f}")
             for row in figures["area"] + figures["number"]]
    return figures, ["### Growth (automatic geometry, float32 micrographs, reading and writing included)", "",
                     *table(*rows)]


def draw_growth(figures, path):
    """Plot time and memory as functions of the area, and the time per micrograph as a function of their number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    full = [row for row in figures["area"] if row["binning"] == 1]
    area = [row["rows"] * row["cols"] / 1e6 for row in full]
    left.loglog(area, [row["seconds"] for row in full], "o-")
    left.set(xlabel="binned micrograph, megapixels", ylabel="s per micrograph")
    left.loglog(area, [full[-1]["seconds"] * each / area[-1] for each in area], ":", label="proportional")
    left.legend()
    middle.semilogx(area, [row["peak_mib"] / 1024 for row in full], "o-", label="not binned")
    binned = figures["area"][-1]
    middle.plot([binned["rows"] * binned["cols"] / binned["binning"]**2 / 1e6], [binned["peak_mib"] / 1024], "s",
                label="8184 x 11520, binned by 4")
    middle.set(xlabel="binned micrograph, megapixels", ylabel="peak memory, GiB", ylim=(0, None))
    middle.legend()
    right.semilogx([row["number"] for row in figures["number"]], [row["seconds"] for row in figures["number"]], "o-")
    right.set(xlabel="micrographs of 1024 x 1024", ylabel="s per micrograph", ylim=(0, None))
    figure.savefig(path, dpi=110)


PARTS = {"scan": scan, "pick": pick, "training": training, "growth": growth}


def main():
    """Run the parts and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add_data_option(parser)
    parser.add_argument("--topaz", default=shutil.which("topaz"), help="the program topaz")
    parser.add_argument("--repeats", type=int, default=5, help="number of timed runs of `scan`")
    options = parser.parse_args()
    from deepem_scipion.deepem import runtime

    device = runtime.start_keras()
    import keras

    keras.utils.set_random_seed(0)
    RESULTS.mkdir(parents=True, exist_ok=True)
    lines = [f"{title()}; {device}, {processor()}", ""]
    figures = {}
    for name in options.parts:
        figures[name], text = PARTS[name](options)
        lines += text
        (RESULTS / "speed.md").write_text("\n".join(lines))
        (RESULTS / "speed.json").write_text(json.dumps(figures, indent=1))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
