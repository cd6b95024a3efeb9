# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports for a browser: their figures, names and messages of any kind, and that all is in one file."""

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from safetensors.numpy import save_file

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.evaluation.metrics import evaluate
from deepem_scipion.deepem.model.files import load_model, save_model
from deepem_scipion.deepem.model.general import general_model
from deepem_scipion.deepem.picking.candidates import Candidates, write_candidates
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import Limits
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.picking.table import read_table, write_table
from deepem_scipion.deepem.report.page import MAX_OPEN_ROWS, MAX_ROWS
from deepem_scipion.deepem.report.picking_report import report_picking
from deepem_scipion.deepem.report.thumbnails import choose_micrographs
from deepem_scipion.deepem.studio.project import StudioProject

# The matplotlib that Scipion pins uses functions that its own dependencies have renamed since.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")

HOSTILE = ["<script>alert(1)<!--", "a&lt;b \"quoted' & $\\frac$ {{ 7*7 }}", "<img src=x onerror=alert(2)>",
           "not-utf8-\udcff", "\u202ereversed"]
REASON = "</td></table><script src=\"https://example.org/x.js\"></script> & 'found'"
SETTINGS = RunSettings(Limits(0.4, 32.0, (0.5, 1.5)), scan_step=4, rotations=4, box=16, working_pixel_size_angst=8.0,
                       diameter_angst=64.0, pixel_size_angst=4.0, model_contrast="<b>dark</b>",
                       versions={"python": "3.11", "tensorflow": "2.99<i>"})


def write_run(folder, names=(*HOSTILE, "plain"), n=30, failed=("<u>bad</u>",), settings=SETTINGS):
    """Write the results of a picking run as `deepem pick` does, on small micrographs of noise.

    Returns name -> (scores, reasons) of the candidates.
    """
    rng, results = np.random.default_rng(1), PickingResults(folder)
    results.make()
    micrographs, found = {}, {}
    for number, name in enumerate(names):
        scores = np.sort(rng.uniform(0, 1, n - 2 * number))[::-1]
        reasons = np.where(scores >= settings.limits.threshold, "picked", "threshold")
        reasons[1] = "distance"
        centres_xy = rng.uniform((0, 0), (159, 119), (len(scores), 2))
        candidates = Candidates(centres_xy, scores, np.ones(len(scores)), np.full(len(scores), 9.0))
        results.write_micrograph(name, candidates, reasons, 24)
        path = folder / f"{number}.mrc"
        with mrcfile.new(path, rng.normal(size=(120, 160)).astype(np.float32)) as file:
            file.voxel_size = 1.0  # not that of the settings
        micrographs[name] = MicrographResult.of(str(path), candidates, reasons, seconds=0.5, finished=1e9 + 60 * number)
        found[name] = scores, reasons
    for name in failed:
        micrographs[name] = MicrographResult(f"{name}.mrc", REASON, finished=1e9)
    results.write_summary(settings, micrographs)
    return found


@dataclass
class Page(HTMLParser):
    """What a page holds: tags with attributes, texts, and tables by caption."""

    tags: list = field(default_factory=list)
    texts: list = field(default_factory=list)
    tables: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__init__()
        self._open = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)
        if tag == "tr" and self._head() is not None:
            self._head().append([])
        elif tag in ("td", "th"):
            self._head()[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "caption":
            self.tables[data] = []
        elif self._open and self._open[-1] in ("td", "th"):
            self._head()[-1][-1] += data
        if data.strip():
            self.texts.append(data.strip())

    def _head(self):
        return list(self.tables.values())[-1] if self.tables else None

    def table(self, caption):
        found, = (rows for name, rows in self.tables.items() if name.startswith(caption))
        return found

    def figures(self):
        at = [number for number, text in enumerate(self.texts) if text in ("micrographs picked", "precision")][0]
        return dict(zip(self.texts[at:at + 12:2], self.texts[at + 1:at + 12:2]))

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


def read_page(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page._open == []
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Report of a run with hostile names, and the candidates."""
    folder = tmp_path_factory.mktemp("run")
    found = write_run(folder)
    report_picking(folder, folder / "report.html")
    return read_page(folder / "report.html"), found


def shown(name):
    """A name as text of the page: bytes that are no UTF-8 are spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


def test_figures_and_tables_are_those_of_the_run(run):
    page, found = run
    scores, reasons = (np.concatenate(parts) for parts in zip(*found.values()))
    picked = reasons == "picked"
    figures = page.figures()
    # Means of micrographs are rounded to four digits before they are put together.
    assert float(figures.pop("mean score")) == pytest.approx(scores[picked].mean(), abs=6e-4)
    assert figures == {"micrographs picked": "6", "failed": "1", "picks": str(picked.sum()),
                       "picks per micrograph": f"{picked.sum() / 6:.1f}", "micrographs per minute": "1.2"}
    rows = page.table("Candidates")
    assert rows[1] == ["picked", str(picked.sum()), f"{100 * picked.mean():.1f}"]
    assert ["below the threshold", str((reasons == "threshold").sum()),
            f"{100 * (reasons == 'threshold').mean():.1f}"] in rows
    assert ["too close to a better pick", "6", f"{100 * 6 / len(scores):.1f}"] in rows
    rows = {row[0]: row[1:] for row in page.table("All micrographs")[1:]}
    assert rows.keys() == {*map(shown, found), "<u>bad</u>"}
    for name, (values, why) in found.items():
        assert rows[shown(name)] == [str((why == "picked").sum()), f"{round(values[why == 'picked'].mean(), 4):.3f}",
                                     str(len(values)), "0.500"]
    assert page.table("Failed micrographs (1)")[1:] == [["<u>bad</u>", REASON]]
    parameters = dict(page.table("Parameters of picking"))
    assert parameters["threshold"] == "0.4" and parameters["pixel size of the micrographs"] == "4 Å"
    assert parameters["particle diameter"] == "64 Å"
    assert parameters["range of the local standard deviation"] == "0.500 to 1.500"
    assert page.table("Versions") == [["python", "3.11"], ["tensorflow", "2.99<i>"]]
    assert "1 of 7 micrographs failed; the reasons are listed below." in page.texts


def test_names_and_messages_are_text_whatever_they_hold(run):
    page, _ = run
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "link", "title", "style", "body", "header", "main", "footer", "section", "h1", "h2",
        "h3", "p", "strong", "dl", "div", "dt", "dd", "figure", "figcaption", "img", "a", "b", "br", "table", "caption",
        "thead", "tbody", "tr", "th", "td", "details", "summary"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert {*map(shown, HOSTILE)} < set(page.texts)
    alts = " ".join(image["alt"] for image in page.images())
    assert all(shown(name) in alts for name in HOSTILE)


def test_nothing_outside_of_the_file_is_referred_to(run):
    page, _ = run
    addresses = [value for _, attributes in page.tags for name, value in attributes.items()
                 if name in ("src", "href", "srcset", "action", "data", "poster", "background", "style")]
    assert len(addresses) > 15 and all(re.match("data:|#picture-[1-9]$", address) for address in addresses)
    style, = (text for text in page.texts if text.startswith(":root"))
    assert "url(" not in style and "@import" not in style
    policy, = (attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def content(image):
    kind, data = re.fullmatch(r"data:image/([a-z+]+);base64,(.+)", image["src"]).groups()
    return kind, base64.b64decode(data)


def test_pictures_are_whole_and_described(run):
    from PIL import Image

    page, _ = run
    kinds = {"jpeg": 0, "svg+xml": 0}
    for image in page.images():
        kind, data = content(image)
        kinds[kind] += 1
        assert len(image["alt"]) > 10
        if kind == "jpeg":
            assert Image.open(io.BytesIO(data)).size == (720, 540)
        else:
            links = [value for element in ElementTree.fromstring(data).iter() for name, value in element.attrib.items()
                     if name.endswith("href")]
            assert links and all(link.startswith(("#", "data:")) for link in links)
    assert kinds == {"jpeg": 6, "svg+xml": 4}


def test_a_circle_lies_where_the_pick_is(tmp_path):
    from PIL import Image

    write_run(tmp_path, ["a"], failed=())
    write_candidates(tmp_path / "candidates" / "a.tsv",
                     Candidates(np.array([[119.5, 29.5]]), np.ones(1), np.ones(1), np.ones(1)), ["picked"])
    report_picking(tmp_path, tmp_path / "report.html")
    image, = (image for image in read_page(tmp_path / "report.html").images() if "jpeg" in image["src"])
    pixels = np.asarray(Image.open(io.BytesIO(content(image)[1]))).astype(int)
    # Yellow is the colour of a score of 1. The micrograph of 160 x 120 pixels of 4 A has become 720 pixels wide, and
    # the circle has the particle's 64 A.
    rows, columns = np.nonzero(pixels[..., 0] + pixels[..., 1] - 2 * pixels[..., 2] > 200)
    assert columns.mean() == pytest.approx(120 * 4.5, abs=2) and rows.mean() == pytest.approx(30 * 4.5, abs=2)
    assert np.ptp(columns) == pytest.approx(16 * 4.5, abs=5)


def test_best_typical_and_worst_micrographs_are_choose_micrographs():
    quality = {f"m{number:02d}": float(number) for number in range(21)}
    assert choose_micrographs(quality) == {"Best": ["m20", "m19", "m18"], "Typical": ["m11", "m10", "m09"],
                               "Worst": ["m00", "m01", "m02"]}
    assert choose_micrographs(dict(list(quality.items())[:3])) == {"All, best first": ["m02", "m01", "m00"]}
    assert choose_micrographs({}) == {}


def test_what_cannot_be_read_is_named_and_costs_nothing_else(tmp_path):
    write_run(tmp_path, ["a", "b", "c"], failed=())
    (tmp_path / "0.mrc").unlink()
    (tmp_path / "candidates" / "b.tsv").unlink()
    settings = {key: value for key, value in SETTINGS.as_dict().items() if key not in ("pixel_size_angst", "versions")}
    (tmp_path / "summary.json").write_text(json.dumps(settings))
    report_picking(tmp_path, tmp_path / "report.html")
    page = read_page(tmp_path / "report.html")
    assert sum("jpeg" in image["src"] for image in page.images()) == 1
    assert any(f"not shown: {tmp_path / '0.mrc'}" in text for text in page.texts)
    assert any("not shown: its table of candidates" in text for text in page.texts)
    assert any(text.endswith("of 1 of 3 micrographs cannot be read; they are missing in the charts of scores.")
               for text in page.texts)
    with pytest.raises(DeepEMError, match="expected the results of `deepem pick`"):
        report_picking(tmp_path / "candidates", tmp_path / "other.html")


def test_the_command_says_how_many_micrographs_are_not_found_and_why(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_run(Path("run"), ["a", "b"], failed=("c",))
    assert main(["report", "run"]) == 0
    assert "not found" not in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["report", "../run"]) == 0
    said = capsys.readouterr().err
    assert "warning: 2 of 2 micrographs are not found" in said and "relative to the folder in which the run was" in said


def test_a_session_of_the_studio_has_no_report(tmp_path, capsys):
    StudioProject(tmp_path)._settings.write_text("{}")
    assert main(["report", str(tmp_path)]) == 2
    assert "this is a session of the studio, and only a picking run has a report" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{}", "damaged"])
def test_a_run_without_settings_has_a_report_without_pictures(tmp_path, content):
    found = write_run(tmp_path, ["a", "b"], failed=())
    (tmp_path / "summary.json").unlink()
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    report_picking(tmp_path, tmp_path / "report.html")
    page = read_page(tmp_path / "report.html")
    assert page.figures()["picks"] == str(sum((reasons == "picked").sum() for _, reasons in found.values()))
    assert sum("jpeg" in image["src"] for image in page.images()) == 0
    assert sum("not shown: its table of candidates, or the summary" in text for text in page.texts) == 2
    assert any("summary.json is missing or damaged" in text for text in page.texts)


def test_a_run_without_any_pick_has_a_report(tmp_path):
    write_run(tmp_path, [], failed=["x", "y"])
    report_picking(tmp_path, tmp_path / "report.html")
    page = read_page(tmp_path / "report.html")
    assert page.figures()["failed"] == "2" and page.figures()["mean score"] == "-"


@pytest.mark.slow
def test_the_report_of_many_micrographs_stays_small(tmp_path):
    write_run(tmp_path, ["a"], failed=[f"failed <{number}>" for number in range(MAX_OPEN_ROWS + 1)])
    results = read_table(tmp_path / "summary.tsv")
    results.update({f"FoilHole_{number:08d}_Data_{number:08d}_fractions": results["a"] for number in range(1100)})
    write_table(tmp_path / "summary.tsv", results)
    (tmp_path / "candidates" / "a.tsv").unlink()
    report_picking(tmp_path, tmp_path / "report.html")
    page = read_page(tmp_path / "report.html")
    assert len(page.table("All micrographs")) == MAX_ROWS + 1
    assert any(f"(1127; the first {MAX_ROWS} are shown, all are in summary.tsv)" in name for name in page.tables)
    assert [tag for tag, _ in page.tags].count("details") == 2
    assert (tmp_path / "report.html").stat().st_size < 3e6 / 2  # without pictures


# ---- by the program ----

def test_picking_writes_a_report_beside_its_results_if_asked_to(blobs, blob_model, tmp_path, capsys):
    arguments = ["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "d.mrc"),
                 "--output", str(tmp_path / "out")]
    assert main([*arguments, "--report"]) == 0
    page = read_page(tmp_path / "out" / "report.html")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert page.figures()["picks"] == str(summary["picks"]) == str(len(read_coordinates(tmp_path / "out")["d"].scores))
    assert dict(page.table("Versions")) == summary["versions"] and "scipion-em-deepem" in summary["versions"]
    assert dict(page.table("Parameters of picking"))["model"] == str(blob_model)
    assert "64 A, 16.0 binned pixels, dark" in dict(page.table("Card of the model"))["particle"]
    assert len(page.images()) == 9

    assert main([*arguments, "--resume", "--report", str(tmp_path / "no" / "such" / "folder.html")]) == 0
    assert "the report" in capsys.readouterr().err
    for number, model in enumerate((load_model(blob_model).for_diameter(100), general_model(64))):
        save_model(tmp_path / f"{number}.deepem", model)
        assert main(["report", str(tmp_path / "out"), "--model", str(tmp_path / f"{number}.deepem")]) == 2
        assert "not the model that" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_model_has_a_report_with_its_curves(blob_model, tmp_path):
    assert main(["report", str(blob_model), "--output", str(tmp_path / "model.html")]) == 0
    page = read_page(tmp_path / "model.html")
    assert {image["alt"] for image in page.images()} >= {"Loss after each epoch", "Accuracy after each epoch"}
    assert "python" in dict(page.table("Versions"))
    assert main(["report", str(tmp_path)]) == 2


def test_a_report_replaces_no_other_file(blob_model, tmp_path, capsys):
    model, page = shutil.copy(blob_model, tmp_path), tmp_path / "model.html"
    assert main(["report", model, "--output", model]) == 2
    assert "a file that is no report" in capsys.readouterr().err
    assert Path(model).read_bytes() == blob_model.read_bytes()
    page.touch()
    for _ in range(2):  # the second one replaces the first
        assert main(["report", model, "--output", str(page)]) == 0


def test_a_model_with_a_damaged_card_is_refused(tmp_path, capsys):
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "m.deepem", {"deepem_card": "{}"})
    assert main(["report", str(tmp_path / "m.deepem"), "--output", str(tmp_path / "model.html")]) == 2
    assert "m.deepem" in capsys.readouterr().err and not (tmp_path / "model.html").exists()


@pytest.mark.parametrize("more, options", [
    ({}, []),
    ({"threshold": "F1", "region": (20, 30, 150, 120)}, ["--threshold", "F1", "--region", "20", "30", "150", "120"]),
    ({"min_distance_px": 30.0, "threshold": 0.5}, ["--min-distance", "30", "--threshold", "0.5"])])
def test_an_evaluation_has_a_report_with_its_figures_and_pictures(blobs, tmp_path, more, options):
    folder, centres = blobs
    rng = np.random.default_rng(2)
    for name in ("picks", "truth"):
        (tmp_path / name).mkdir()
    for name in "ab":
        places = np.concatenate([centres[name][:9] + rng.normal(0, 2, (9, 2)), rng.uniform(20, 130, (6, 2))])
        write_box(tmp_path / "picks" / f"{name}.box", places, rng.uniform(0.2, 1, 15), 24)
    for name in "ab":
        write_box(tmp_path / "truth" / f"{name}.box", centres[name], np.full(14, np.nan), 24)
    page_file = tmp_path / "report.html"
    assert main(["evaluate", "--truth", str(tmp_path / "truth"), "--picks", str(tmp_path / "picks"), "--distance", "8",
                 "--report", str(page_file), "--micrographs", str(folder / "micrographs"), *options]) == 0
    page = read_page(page_file)
    expected = evaluate(read_coordinates(tmp_path / "truth"), read_coordinates(tmp_path / "picks"), 8.0, **more)
    assert [page.figures()[name] for name in ("precision", "recall", "F1", "average precision")] == [
        f"{expected['overall'][key]:.3f}" for key in ("precision", "recall", "F1", "AP")]
    rows = {row[0]: row[1:] for row in page.table("Figures of the micrographs")[1:]}
    for name, figures in [("all micrographs", expected["overall"]), *expected["micrographs"].items()]:
        assert rows[name][:7] == [*(str(figures[key]) for key in ("truth", "picks", "true_positives")),
                                  *(f"{figures[key]:.3f}" for key in ("precision", "recall", "F1", "AP"))]
    for name, figures in expected["micrographs"].items():
        correct = figures["true_positives"]
        assert (f"F1 {figures['F1']:.3f}: {correct} true positives, {figures['picks'] - correct} false positives, "
                f"{figures['truth'] - correct} missed"
                == page.texts[page.texts.index(name) + 1])
    assert sum("jpeg" in image["src"] for image in page.images()) == 2


def test_picks_in_one_file_have_a_report_without_pictures(tmp_path):
    (tmp_path / "truth").mkdir()
    write_box(tmp_path / "truth" / "a.box", np.array([[50.0, 60.0]]), np.array([0.9]), 24)
    assert main(["evaluate", "--truth", str(tmp_path / "truth"), "--picks", str(tmp_path / "truth" / "a.box"),
                 "--distance", "8", "--report", str(tmp_path / "report.html")]) == 0
    page = read_page(tmp_path / "report.html")
    assert page.figures()["F1"] == "1.000" and not any("jpeg" in image["src"] for image in page.images())
