# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the field: each pattern below has the word to use instead, in prose, messages and names alike."""

import re
from bisect import bisect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Names are split at underscores and capitals before the search, and sentences go on over ends of lines.
WORDS = {
    r"non-? ?particles?": "negatives; in forms: background and contaminants",
    r"(?<!standard )(?<!absolute )\bdeviations?\b": "standard deviation, local standard deviation",
    r"\brecipes?\b": "training preset",
    # Not those of mock, MonkeyPatch and matplotlib.
    r"(?<!monkey )(?<!as )(?<!import )(?<!matplotlib\.)\bpatch(es)?\b(?![(.]| = mock| in \(mock|.aligned)": "crop",
    r"\b(training windows?|windows? of (the )?(training|particles?|background)|single windows|window by window)\b":
        "box, particle image",
    r"\bvaried\b": "augmented",
    r"\bplateau\b": "did not converge",
    r"\b(sure|sur)(er|est) (picks?|ones?|than|false|right)\b|\bsurer\b|\bsurest\b": "more confident, most confident",
    r"\bnearer\b": "closer",
    r"\bfalling (score|order)|\bby falling\b": "in descending order of",
    r"\b(false|wrong) (picks?|ones?)\b": "false positive",
    r"\bright (picks?|ones?)\b": "true positive; for users: correct pick",
    r"(?<!ground )\bthe truth\b|\btrue particles?\b": "ground truth, reference coordinates",
    r"\b(least|greatest) (distance|score|precision|margin|diameter|size|value|threshold)s?\b": "minimum, maximum",
    r"\bworking pixels?\b(?! size)": "binned pixel",
    r"\breduced micrographs?\b|\bmicrographs? (is|are|was|were) reduced\b|\breduced by\b": "downsampled",
    r"\bbrought to\b": "resampled to",
    r"\bcontinued by\b": "mirror-padded",
    r"\bthinned\b|\bthinning\b": "after non-maximum suppression",
    r"\bunlike the others\b": "outlier",
    r"\bjudged? (by|on)\b|\bthat judge\b": "validated on, evaluated on",
    r"\blook(s|ed|ing)? through\b": "manually curate (picks), check, search",
    r"\b(go|goes|going|gone|went) on (from|with)\b": "resume, continue, fine-tune",
    r"\banew\b|\bafresh\b": "again, from scratch",
    r"\bamid\b": "while",
    r"\bso many\b": "this many, N",
    r"(?<!\.)\btells?\b(?!\()|\btelling\b|\btold\b": "report, state, list; distinguish",
    r"\bfault of its own\b": "internal error",
    r"\bwhole or not there\b": "atomic",
    r"\bmend(s|ed|ing)?\b": "fix, correct",
    r"\bwithout a word\b": "silently",
    r"\bearlier (formats?|versions?)\b": "nothing: there is none before the first release",
    r"\b(whilst|hitherto|thereof|henceforth|lest|aught|nought|wherein|whereof|amongst)\b": "plain English",
}
SUFFIXES = {".py", ".md", ".rst", ".txt", ".conf", ".template", ".j2"}


def sources():
    """Files of the project whose words are checked: prose and code, without this one."""
    found = [ROOT / "Makefile", ROOT / "setup.py", *ROOT.glob("*.rst"), *ROOT.glob("*.txt"), *ROOT.glob("*.md")]
    for folder in ("deepem_scipion", "benchmarks", "docs", "tests", ".ci"):
        found += [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    left_out = {"results", ".nox", "__pycache__", "_build"}
    return [path for path in found if path != Path(__file__).resolve()
            and not left_out & set(path.relative_to(ROOT).parts)]


def occurrences(text):
    """Old words in a text: (line, the words, the words to use)."""
    parts, starts, length = [], [], 0
    for line in text.splitlines():
        # Without indentation, comment signs and the quotes of strings that go on in the next line.
        part = re.sub(r"""^\s*(#+|[rf]*["'](?=\w))?\s*|\s*["']?\s*\\?$""", "", line)
        part = re.sub(r"_|(?<=[a-z0-9])(?=[A-Z])", " ", part)
        starts.append(length)
        parts.append(part)
        length += len(part) + 1
    joined = " ".join(parts)
    return sorted((bisect(starts, match.start()), match[0], use)
                  for pattern, use in WORDS.items() for match in re.finditer(pattern, joined, re.I))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_words_of_the_field_are_used(path):
    found = occurrences(path.read_text(encoding="utf-8"))
    assert not found, "\n" + "\n".join(f"{path.relative_to(ROOT)}:{line}: {word!r}: use {use}"
                                       for line, word, use in found)


@pytest.mark.parametrize("text, lines", [
    ("A standard\ndeviation, and the median absolute deviation", []),
    ('message = ("the standard "\n           "deviation")', []),
    ("# a standard\n# deviation", []),
    ("one\nthe deviation of", [2]),
    ("def least_distance(): pass\nnonParticles = 1", [1, 2]),
    ("working_pixel_size_angst = 1", []),
    ("two working\npixels", [1]),
    ("handle.tell()\nfrom unittest.mock import patch\nMonkeyPatch, mock.patch('x')", []),
    ("It tells how\nmany; at least one", [1]),
])
def test_old_words_are_found_in_prose_and_names(text, lines):
    assert [line for line, *_ in occurrences(text)] == lines
