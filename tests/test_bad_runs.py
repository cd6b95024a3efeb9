# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of docs/bad-input.md: runs that cannot write, lack memory, meet earlier results, or are interrupted."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from conftest import memory, nobody
from deepem_scipion.deepem.commands import train as train_command
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.micrograph import read_micrograph
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.picking.candidates import read_candidates
from deepem_scipion.deepem.picking.picker import Picker
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.run import pick_micrographs


def pick(model, micrographs, output, *more):
    return main(["pick", "--model", str(model), "--micrographs", *map(str, micrographs), "--output", str(output),
                 "--contrast-checks", "0", *more])


def failures(folder):
    return dict(line.split("\t") for line in (folder / "failed.tsv").read_text().splitlines()[1:])


@pytest.mark.parametrize("option, value, words", [
    ("--pixel-size", "0", "pixel size is 0 A"), ("--pixel-size", "-1", "pixel size is -1 A"),
    ("--border", "nan", "border nan"), ("--min-distance", "nan", "minimum distance nan"),
    ("--min-distance", "-5", "minimum distance -5")])
def test_senseless_numbers_are_refused_by_picking(blobs, blob_model, tmp_path, capsys, option, value, words):
    assert pick(blob_model, [blobs[0] / "micrographs" / "d.mrc"], tmp_path, option, value) == 2
    assert words in capsys.readouterr().err


def test_a_micrograph_that_does_not_fit_into_the_memory_costs_no_other(blobs, blob_model, tmp_path):
    micrographs = [blobs[0] / "micrographs" / "d.mrc", tmp_path / "big.mrc", blobs[0] / "micrographs" / "e.mrc"]
    content = bytearray(micrographs[0].read_bytes()[:1024])
    content[:8] = np.array([23_000, 23_000], "<i4").tobytes()
    (tmp_path / "big.mrc").write_bytes(content)
    os.truncate(tmp_path / "big.mrc", 1024 + 4 * 23_000**2)  # takes no room on most file systems
    assert pick(blob_model, micrographs[:1], tmp_path / "first") == 0  # so that the libraries have what they need
    with memory(2**30):
        assert pick(blob_model, micrographs, tmp_path / "out") == 1
    assert list(failures(tmp_path / "out")) == ["big"] and "memory" in failures(tmp_path / "out")["big"]
    assert {Path(name).name for name in read_coordinates(tmp_path / "out" / "picks.star")} == {"d", "e"}


def whole(folder):
    """Check that all files of a folder with picks are whole, and return the names of the micrographs.

    Files are written in hidden folders until they are whole; these remain where nothing could remove them.
    """
    hidden = {part for path in folder.rglob(".deepem-*") for part in path.rglob("*")}
    for path in set(folder.rglob("*.tsv")) - hidden:
        assert path.read_bytes().endswith(b"\n")
        if path.parent.name == "candidates":
            read_candidates(path)
    for path in set(folder.rglob("*.mrc")) - hidden:
        read_micrograph(path)
    return set(read_coordinates(folder)) if list(folder.glob("*.box")) else set()


def test_a_micrograph_whose_files_may_not_grow_as_large_fails_and_leaves_no_part_of_one(blobs, blob_model, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        code = pick(blob_model, [blobs[0] / "micrographs" / "d.mrc"], tmp_path, "--threshold", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert re.search("d.tsv cannot be written .*File too large", failures(tmp_path)["d"])
    assert not whole(tmp_path) and not list(tmp_path.glob("candidates/*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB."""
    place = tmp_path / "small"
    place.mkdir()
    made = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(place)],
                                                    capture_output=True)
    if not made or made.returncode:
        pytest.skip("this user may not mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_keeps_what_was_finished_and_says_so(blobs, blob_model, small_disk, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("".join(f"{blobs[0] / 'micrographs' / 'd.mrc'}\tm{i}\n" for i in range(30)))
    assert pick(blob_model, [tmp_path / "list.txt"], small_disk / "out") in (1, 2)
    errors = capsys.readouterr().err
    assert "No space left on device" in errors and "internal error" not in errors
    finished = whole(small_disk / "out")
    assert 0 < len(finished) < 30
    assert len({(small_disk / "out" / f"{name}.box").read_bytes() for name in finished}) == 1


def test_a_model_that_does_not_fit_on_the_disk_is_refused_and_no_part_of_it_is_left(train, blobs, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        code, output = train({name: blobs[1][name] for name in "ab"}, "--validation-fraction", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and "training continues, but this epoch is lost if it is interrupted" in output
    assert re.search(r"error: .*m cannot be written .*File too large", output)
    assert "m" not in [path.name for path in tmp_path.iterdir()]


def test_an_output_folder_that_cannot_be_written_is_refused(blobs, blob_model, tmp_path, capsys):
    micrographs = [blobs[0] / "micrographs" / "d.mrc"]
    (tmp_path / "file").touch()
    assert pick(blob_model, micrographs, tmp_path / "file") == 2
    assert "the output folder cannot be made" in capsys.readouterr().err
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o500)
    picker = Picker(load_model(blob_model))
    with nobody(), pytest.raises(DeepEMError, match=r"the output folder cannot be made \(Permission denied\)"):
        pick_micrographs({}, picker, tmp_path / "closed" / "out")


def test_results_of_an_earlier_run_are_refused_replaced_or_completed(blobs, blob_model, tmp_path, capsys):
    d, e = (blobs[0] / "micrographs" / f"{name}.mrc" for name in "de")
    old, clean = tmp_path / "old", tmp_path / "clean"
    assert pick(blob_model, [d, e], old, "--score-maps") == 0 and pick(blob_model, [d], clean) == 0
    before = contents(old)
    assert pick(blob_model, [d], old) == 2
    message = capsys.readouterr().err
    assert "has results of an earlier run" in message and "--overwrite" in message and "--resume" in message
    assert contents(old) == before
    assert pick(blob_model, [d], old, "--resume", "--threshold", "0.123") == 2
    assert "made with other settings (threshold" in capsys.readouterr().err and contents(old) == before
    when = (old / "d.box").stat().st_mtime_ns
    assert pick(blob_model, [d], old, "--resume") == 2  # that of e would be lost
    assert "has picks of 1 micrographs that are not among these, for instance e" in capsys.readouterr().err
    assert contents(old) == before
    assert pick(blob_model, [d], clean, "--resume") == 0 and pick(blob_model, [d, e], clean, "--resume") == 0
    assert pick(blob_model, [d, e], old, "--resume") == 0
    assert contents(old) == contents(clean) and (old / "d.box").stat().st_mtime_ns == when
    shutil.rmtree(clean)
    assert pick(blob_model, [d], clean) == 0
    assert pick(blob_model, [d, e], old, "--overwrite") == 0 and pick(blob_model, [d], old, "--overwrite") == 0
    assert contents(old) == contents(clean) and (old / "d.box").stat().st_mtime_ns > when


def test_a_micrograph_that_an_older_file_has_replaced_is_picked_again(blobs, blob_model, tmp_path):
    d, older = tmp_path / "d.mrc", tmp_path / "older.mrc"
    for path, name in ((d, "d"), (older, "e")):
        shutil.copy(blobs[0] / "micrographs" / f"{name}.mrc", path)
    os.utime(older, (1e9, 1e9))
    assert pick(blob_model, [older], tmp_path / "of_older") == 0 and pick(blob_model, [d], tmp_path / "out") == 0
    before = (tmp_path / "out" / "d.box").read_text()
    os.replace(older, d)
    assert pick(blob_model, [d], tmp_path / "out", "--resume") == 0
    assert before != (tmp_path / "out" / "d.box").read_text() == (tmp_path / "of_older" / "older.box").read_text()


def test_a_run_in_which_all_failed_is_no_obstacle_and_nothing_else_is_removed(blobs, blob_model, tmp_path, capsys):
    out, tiffs = tmp_path / "out", [tmp_path / "d.tif", tmp_path / "e.tif"]
    for path in tiffs:
        tifffile.imwrite(path, read_micrograph(blobs[0] / "micrographs" / f"{path.stem}.mrc", 4).pixels)
    assert pick(blob_model, tiffs, out, "--json") == 2 and set(failures(out)) == {"d", "e"}
    said = capsys.readouterr().err  # the reason once, and for how many
    assert said.count("does not give its pixel size. Give it with --pixel-size") == 1
    assert "2/2 e failed as d" in said and "2 micrographs failed for the reason given for d" in said
    (out / "note.txt").write_text("mine")
    (out / "export").mkdir()
    (out / "export" / "x.csv").write_text("0")  # perhaps of another command: not to be removed unasked
    assert pick(blob_model, tiffs, out, "--pixel-size", "4") == 2
    assert "has results of an earlier run" in capsys.readouterr().err
    (out / "export" / "x.csv").unlink()
    for option in ([], ["--resume"]):
        assert pick(blob_model, tiffs, out, "--threshold", "0.4") == 2  # fails again
        assert pick(blob_model, tiffs[:1], out, "--pixel-size", "4", *option) == 0
        assert "every micrograph of the earlier run failed" in capsys.readouterr().err
        assert (out / "note.txt").read_text() == "mine" and not failures(out) and not (out / "json" / "e.json").exists()
        assert pick(blob_model, tiffs, out) == 2 and "results of an earlier run" in capsys.readouterr().err
        assert pick(blob_model, tiffs, out, "--overwrite") == 2


def test_boxes_that_are_not_of_a_run_are_neither_replaced_nor_taken_for_its_picks(blobs, blob_model, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "d.box").write_text("1 2 3 4\n")
    for option in ([], ["--overwrite"], ["--resume"]):
        assert pick(blob_model, [blobs[0] / "micrographs" / "d.mrc"], mine, *option) == 2
        assert "1 .box files that are not of a picking run, for instance d.box" in capsys.readouterr().err
    assert (mine / "d.box").read_text() == "1 2 3 4\n" and len(list(mine.iterdir())) == 1
    out = tmp_path / "out"
    assert pick(blob_model, [blobs[0] / "micrographs" / "d.mrc"], out) == 0
    shutil.copy(blobs[0] / "boxes" / "a.box", out / "left.box")
    assert main(["evaluate", "--truth", str(blobs[0] / "boxes"), "--picks", str(out), "--distance", "6"]) == 2
    assert "1 .box files that are not of this run" in capsys.readouterr().err


def contents(folder):
    """Files of a run by their path in the folder, without what depends on the time it took."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    summary = json.loads(found.pop("summary.json"))
    for micrograph in summary["micrographs"].values():
        del micrograph["seconds"], micrograph["finished"]
    del summary["seconds"], summary["micrographs_per_minute"], found["summary.tsv"]
    return found, summary, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# -------------------------------------------------------------------- signals
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupted_picking_leaves_complete_files_and_can_be_repeated(blobs, blob_model, tmp_path, number, code):
    source, out = blobs[0] / "micrographs" / "d.mrc", tmp_path / "out"
    (tmp_path / "list.txt").write_text("".join(f"{source}\tm{i}\n" for i in range(3000)))
    process = subprocess.Popen([sys.executable, "-m", "deepem_scipion.deepem", "pick", "--model", str(blob_model),
                                "--micrographs", str(tmp_path / "list.txt"), "--output", str(out)],
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               # Shells start what runs in the background with this signal ignored.
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while len(list(out.glob("*.box"))) < 4:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == code
    finished = whole(out)
    assert 3 < len(finished) < 3000
    if number == signal.SIGINT:
        assert b"stopping after the micrographs in work" in errors
        assert b"interrupted; finished results are kept; continue with --resume" in errors
        summary = json.loads((out / "summary.json").read_text())
        assert set(summary["micrographs"]) == finished == set(PickingResults(out).read_micrographs())
        picks = sum(len(found.scores) for found in read_coordinates(out).values())
        assert [len(found.scores) for found in read_coordinates(out / "picks.star").values()] == [picks]
    for name in ("m4.box", "candidates/m4.tsv"):  # killed while it wrote
        (out / name).parent.joinpath(".deepem-abc").mkdir()
        (out / name).parent.joinpath(".deepem-abc", Path(name).name).write_text("1 2")
    (tmp_path / "few.txt").write_text(f"{source}\tm0\n{source}\tm5\n")
    assert pick(blob_model, [tmp_path / "few.txt"], out) == 2  # not over the results of another run
    assert pick(blob_model, [tmp_path / "few.txt"], out, "--resume") == 0 and whole(out) == {"m0", "m5"}
    assert not list(out.rglob(".deepem-*"))
    assert (out / "m0.box").read_bytes() == (out / "m5.box").read_bytes()
    assert json.loads((out / "summary.json").read_text())["picked"] == 2


def test_a_second_interruption_stops_at_once_and_keeps_what_is_done(blobs, blob_model, tmp_path):
    script = ("import sys, threading\nfrom deepem_scipion.deepem.commands.main import main\n"
              "from deepem_scipion.deepem.picking.results import PickingResults\n"
              "write = PickingResults.write_micrograph\n"
              "PickingResults.write_micrograph = lambda self, name, *others: (\n"
              "    write(self, name, *others) if name == 'a' else threading.Event().wait())  # never done\n"
              "sys.exit(main(sys.argv[1:]))")
    command = ["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs"), "--output",
               str(tmp_path / "out")]
    with subprocess.Popen([sys.executable, "-c", script, *command], stderr=subprocess.PIPE, text=True,
                          stdout=subprocess.DEVNULL,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        watchdog = threading.Timer(300, process.kill)  # so that the test ends in any case
        watchdog.start()
        try:
            for said in ("1/5 a: ", "stopping after the micrographs in work; Ctrl-C again stops at once"):
                assert any(said in line for line in process.stderr)  # reads on until it is said
                process.send_signal(signal.SIGINT)
            _, errors = process.communicate()
        finally:
            watchdog.cancel()
            process.kill()
    assert process.returncode == 130 and "interrupted; finished results are kept; continue with --resume" in errors
    results = PickingResults(tmp_path / "out")
    summary = json.loads(results.path("settings").read_text())
    assert list(results.read_micrographs()) == list(summary["micrographs"]) == ["a"]
    assert len(read_coordinates(results.path("star"))) == 1
    assert main([*command, "--resume"]) == 0 and list(results.read_micrographs()) == list("abcde")


def test_interrupted_training_keeps_the_last_epoch_and_resumes_from_it(train, blobs, tmp_path, monkeypatch):
    coordinates = {name: blobs[1][name] for name in "ab"}

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_command, "show_epoch", interrupt)
        code, output = train(coordinates, "--epochs", "2", "--validation-fraction", "0")
    assert code == 130 and "interrupted; finished results are kept" in output
    assert (tmp_path / "m.checkpoint").exists()
    code, output = train(coordinates, "--epochs", "2", "--validation-fraction", "0")
    assert "resuming after epoch 1/2" in output
    assert code == 0 and not (tmp_path / "m.checkpoint").exists()
