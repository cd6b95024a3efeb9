# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of docs/facility.md, on a small set of micrographs.

With pytest, or in a Scipion installation: scipion3 tests deepem_scipion.tests.test_facility
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from unittest import mock

import pyworkflow as pw
from pyworkflow.project import Manager
from pyworkflow.template import LocalTemplate, Validations
from pyworkflow.tests import BaseTest

from deepem_scipion.headless import facility
from deepem_scipion.headless.workflows import FIELD, TEMPLATES, fill, run_all
from deepem_scipion.program import MODULE
from deepem_scipion.tests.test_protocols_relion import BINNED_ANGST, BOX, EPOCHS, SCENE, needs_relion, simulate

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "facility.md"
SECONDS = 600
needs_app = unittest.skipUnless(find_spec("scipion"), "scipion-app is not installed")


def code_under(heading, number=0):
    """One of the blocks of code under a heading of the document."""
    text = DOCUMENT.read_text(encoding="utf-8").split(f"# {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```\w+\n(.*?)^```", text, re.M | re.S)[number]


class TestTemplates(unittest.TestCase):
    """The files in the folder templates, and the command that fills one of them."""

    def test_every_parameter_of_a_template_is_one_of_its_protocol(self):
        protocols = pw.Config.getDomain().getProtocols()
        for path in TEMPLATES.iterdir():
            name = path.name.removesuffix(".json.template")
            for entry in json.loads(fill(name, {})):
                if entry["object.className"] in protocols:  # those of RELION need its plugin
                    form = protocols[entry["object.className"]]().getDefinition()
                    unknown = [key for key in entry if not key.startswith("object.") and not form.hasParam(key)]
                    self.assertEqual(unknown, [], name)

    def test_scipion_finds_the_same_fields_and_can_check_what_they_are_filled_with(self):
        for path in TEMPLATES.iterdir():
            template = LocalTemplate("deepem_scipion", str(path))
            template.replaceEnvVariables()
            template.parseContent()
            fields = list(template.getParams().values())
            # Fields of the same title would be taken for one.
            self.assertEqual([field.getAlias() for field in fields], re.findall(r"\|(\w+)~", path.read_text()))
            for field in fields:
                self.assertNotIn("not recognized", Validations.check(field.getValue(), field.getType()) or "")

    def test_a_template_has_one_beginning(self):
        # What follows two of them Scipion's scheduler would start twice.
        for path in TEMPLATES.iterdir():
            workflow = json.loads(fill(path.name.removesuffix(".json.template"), {}))
            beginnings = [entry["object.label"] for entry in workflow
                          if not any(re.fullmatch(r"\d+\.output.*", str(value)) for value in entry.values())]
            self.assertEqual(len(beginnings), 1, beginnings)

    def test_any_path_can_be_filled_in(self):
        path = 'a "b"\\c'
        self.assertEqual(json.loads(fill("facility", {"micrographs": path}))[0]["filesPath"], path)

    def test_the_command_fills_every_field_of_the_template(self):
        options = facility.parse(["--micrographs", ".", "--pixel-size", "1.5", "--model", "m", "--project", "p"])
        with mock.patch("deepem_scipion.deepem.model.files.read_card", return_value={"diameter_angst": 120}):
            values = facility.values_of(options)
        aliases = {alias for _, alias in FIELD.findall((TEMPLATES / "facility.json.template").read_text())}
        self.assertEqual(set(values), aliases)
        self.assertEqual((values["box"], values["mask"]), (120, 144))

    def test_without_a_model_the_template_from_nothing_is_filled(self):
        values = facility.values_of(facility.parse(["--micrographs", ".", "--pixel-size", "1.5", "--diameter", "120",
                                                    "--project", "p"]))
        text = (TEMPLATES / "from-nothing.json.template").read_text()
        self.assertEqual(set(values), {alias for _, alias in FIELD.findall(text)})
        self.assertEqual((values["box"], values["mask"]), (120, 144))

    def test_a_project_is_resumed_on_a_machine_with_another_number_of_cores(self):
        arguments = ["--micrographs", ".", "--pixel-size", "1.5", "--diameter", "120", "--project", "p"]
        values = facility.values_of(facility.parse(arguments))
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(
                facility, "OPTIONS_FILE", os.path.join(folder, "options.json")):
            Path(facility.OPTIONS_FILE).write_text(json.dumps({**values, "threads": 64}))
            facility.check_options(folder, values)
            with self.assertRaisesRegex(facility.FacilityError, "threads was 64 and is 2"):
                facility.check_options(folder, facility.values_of(facility.parse([*arguments, "--threads", "2"])))

    def test_a_missing_folder_or_model_is_reported(self):
        for arguments, message in ((["--micrographs", "nowhere", "--model", __file__], "there is no folder nowhere"),
                                   (["--micrographs", ".", "--model", __file__], "test_facility.py"),
                                   (["--micrographs", "."], "give --diameter"),
                                   (["--micrographs", ".", "--diameter", "-1"], "--diameter -1"),
                                   (["--micrographs", ".", "--diameter", "inf"], "--diameter inf"),
                                   *((["--micrographs", ".", "--diameter", "9", option, text], f"{option} {text}")
                                     for option, text in (("--pixel-size", "0.0"), ("--pixel-size", "nan"),
                                                          ("--box", "-4"), ("--classes", "0"), ("--threads", "0"),
                                                          ("--learn", "0"), ("--cs", "nan"), ("--timeout", "soon"),
                                                          ("--file-timeout", ""))),
                                   (["--micrographs", ".", "--diameter", "9", "--model", "m"], "one of them")):
            with redirect_stdout(StringIO()) as output:
                self.assertEqual(facility.main(["--pixel-size", "1", "--project", "none", *arguments]), 2)
            self.assertIn(message, output.getvalue())


@needs_relion
@unittest.skipUnless(DOCUMENT.exists(), "no docs/facility.md: not in a working copy of the sources")
class TestFacility(BaseTest):
    """A night with five micrographs, one of which is damaged and one of which comes late."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="deepem-facility-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        simulate(cls.folder, 5, seed=1)
        for path in cls.paths("12345"):
            os.utime(path, (time.time() - 60,) * 2)  # complete for a while
        model = cls.folder / "model.safetensors"
        subprocess.run([sys.executable, "-m", MODULE, "train", "--micrographs", *cls.paths("123"),
                        "--coordinates", cls.folder / "coordinates", "--pixel-size", str(BINNED_ANGST), "--diameter",
                        str(SCENE.diameter_angst), "--epochs", str(EPOCHS), "--output", model],
                       check=True, capture_output=True)
        cls.environment = {
            **os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "https_proxy": "http://127.0.0.1:9",  # Scipion would look for templates elsewhere, too
            "MICROGRAPHS": str(cls.folder / "binned"), "PIXEL_SIZE": str(BINNED_ANGST), "MODEL": str(model),
            "PROJECT": "night", "BOX": str(BOX), "MASK": "480", "CLASSES": "2", "ITERATIONS": "2", "TIMEOUT": "5"}
        output = cls.finish(cls.start(code_under("A night at a facility") + "echo $RELION_HOME"))[0]
        cls.environment["RELION_HOME"] = output.split()[-1]
        if find_spec("scipion"):
            # Scipion's scheduler, which keeps the output open, mostly sleeps; meanwhile the other tests run.
            cls.log = cls.folder / "template.log"
            with open(cls.log, "w") as log:
                cls.scheduling = cls.start(code_under("The template"), log)
            cls.addClassCleanup(cls.stop_template)

    @classmethod
    def paths(cls, numbers):
        """Simulated micrographs."""
        return [cls.folder / "binned" / f"mic_{number:0>3}.mrc" for number in numbers]

    @classmethod
    def stop_template(cls):
        """Leave no process behind, also if a test failed."""
        cls.scheduling.wait(SECONDS)
        if Manager().hasProject("night-template"):
            project = Manager().loadProject("night-template")
            for run in project.getRuns(refresh=True, checkPids=True):
                if run.isActive():
                    project.stopProtocol(run)

    @classmethod
    def start(cls, code, log=subprocess.PIPE, **environment):
        """A shell that runs code of the document; a group of processes of its own, as at a terminal."""
        return subprocess.Popen(["bash", "-e", "-c", code], cwd=cls.folder, env={**cls.environment, **environment},
                                stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    @classmethod
    def finish(cls, process):
        """Output and exit status of a shell."""
        try:
            return process.communicate(timeout=SECONDS)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            return process.communicate()[0], "took too long"

    def follow(self, process, text):
        """Read what a shell writes until a text comes."""
        output = []
        for line in process.stdout:
            output.append(line)
            if text in line:
                return
        self.fail(f"{text} did not come: {''.join(output)}")

    def check(self, project, micrographs):
        """All particles of all good micrographs came as far as the classes, and each once."""
        runs = {run.getClassName(): run for run in project.getRuns(refresh=True, checkPids=True)}
        picks = [(item.getMicName(), *item.getPosition()) for item in runs["ProtDeepEMPick"].outputCoordinates]
        self.assertEqual({name for name, _, _ in picks}, {path.name for path in micrographs})
        self.assertEqual(len(picks), len(set(picks)))
        self.assertAlmostEqual(len(picks), SCENE.n_particles * len(micrographs), delta=8)
        particles = runs["ProtRelionExtractParticles"].outputParticles
        places = [(place.getMicName(), *place.getPosition())
                  for place in (particle.getCoordinate() for particle in particles)]
        self.assertEqual(sorted(places), sorted(picks))
        self.assertEqual(sum(each.getSize() for each in runs["ProtRelionClassify2D"].outputClasses), len(picks))

    def test_the_command_resumes_after_an_interrupt_and_a_bad_micrograph_does_not_stop_the_others(self):
        arriving = self.folder / "arriving"
        arriving.mkdir()
        *first, late, bad = self.paths("12354")
        for path in (*first, bad):
            shutil.copy2(path, arriving)
        os.truncate(arriving / bad.name, 2000)
        os.utime(arriving / bad.name, (time.time() - 60,) * 2)
        command, changes = code_under("One command"), {"MICROGRAPHS": str(arriving), "TIMEOUT": "600"}
        running = self.start(f"exec {command}", **changes)
        self.follow(running, "3 picked, 1 failed")
        output, status = self.finish(self.start(command, **changes))
        self.assertEqual(status, 2)
        self.assertIn("another command is running", output)
        os.killpg(running.pid, signal.SIGTERM)  # to the command and all that it has started
        output, status = self.finish(running)
        self.assertEqual(status, 2, output)
        self.assertIn("the same command resumes", output)

        shutil.copy2(late, arriving)
        running = self.start(command, **changes)
        self.follow(running, "5 micrographs imported")
        output, status = self.finish(self.start(code_under("Monitoring", 0)))
        self.assertEqual(status, 0)
        self.assertIn(first[0].stem, output)
        self.assertEqual(self.finish(self.start(code_under("Monitoring", 1)))[1], 0)
        output, status = self.finish(running)
        self.assertEqual(status, 1, output)
        self.assertIn("5 micrographs imported, 4 picked, 1 failed", output)
        self.assertRegex(output, "[12] classes; running: nothing")
        self.assertIn(f"not picked: {bad.stem}", output)
        self.check(Manager().loadProject("night"), [*first, late])

        output, status = self.finish(self.start(command, **changes, CLASSES="3"))
        self.assertEqual(status, 2)
        self.assertIn("classes was 2 and is 3", output)

    def test_without_a_model_one_learns_from_the_first_micrographs_and_picks_all_again(self):
        command = code_under("One command").replace('--model "$MODEL"', f"--diameter {SCENE.diameter_angst} --learn 2")
        output, status = self.finish(self.start(command, PROJECT="nothing"))
        self.assertEqual(status, 0, output)
        runs = Manager().loadProject("nothing").getRuns()
        general, learnt = (run for run in runs if run.getClassName() == "ProtDeepEMPick")
        train = next(run for run in runs if run.getClassName() == "ProtDeepEMTrain")
        self.assertIn("on 2 micrographs without coordinates", " ".join(train.summary()))
        self.assertTrue(general.getObjId() < train.getObjId() == learnt.inputModel.getObjValue().getObjId())
        self.assertEqual(len(general.outputCoordinates.getUniqueValues("_micId")), 5)
        self.check(Manager().loadProject("nothing"), self.paths("12345"))

    @needs_app
    def test_the_script_runs(self):
        (self.folder / "night.py").write_text(code_under("A script"))
        output, status = self.finish(self.start("python -m scipion python night.py"))
        self.assertEqual(status, 0, output)
        project = Manager().loadProject("night-script")
        self.check(project, self.paths("12345"))
        # The framework may look for the process of a run just when it has ended.
        run = next(run for run in project.getRuns() if run.getClassName() == "ProtRelionClassify2D")
        ended = run.endTime.get()
        run.setFailed("Process 1 not found running on the machine.")
        project.mapper.store(run)
        project.mapper.commit()
        self.assertTrue(run_all(project, lambda runs: ""))
        self.assertEqual(next(other for other in project.getRuns() if other.getObjId() == run.getObjId()).endTime.get(),
                         ended)  # it was not run again

    @needs_app
    def test_the_template_runs_without_a_display(self):
        self.assertEqual(self.scheduling.wait(SECONDS), 0, self.log.read_text())
        project, deadline = Manager().loadProject("night-template"), time.time() + SECONDS
        while True:
            runs = project.getRuns(refresh=True, checkPids=True)
            self.assertFalse([run.getErrorMessage() for run in runs if run.isFailed()])
            if all(run.isFinished() for run in runs):
                break
            self.assertLess(time.time(), deadline, [run.getStatus() for run in runs])
            time.sleep(2)
        self.assertEqual(len(runs), 5)
        self.check(project, self.paths("12345"))
