# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which micrographs of two lists are the same: the one place where names of micrographs are compared.

A name is the path of a micrograph without its last extension, with as many folders as its source states.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import DeepEMError
from ..micrographs.find import has_own_name, real_path

# Endings that programs append to the name of a micrograph to name its file of picks.
_PICKS = re.compile(r"(_autopick|_manualpick|_coords|_picks)$")
# What is left of a double extension such as .mrc.gz, and the endings of _PICKS.
_FILE_ENDINGS = re.compile(r"(\.mrcs?|\.tiff?|\.eer|_autopick|_manualpick|_coords|_picks|_boxes|_particles"
                           r"|_extract|_automatch)$", re.IGNORECASE)
# Endings of movies and of motion correction: SerialEM, EPU, MotionCor2, RELION, cryoSPARC, Scipion, Appion; and
# cryoSPARC's number.
_PROCESSING = re.compile(r"[-_.](dws?|nodw|aligned|aligned_mic|patch_aligned|rigid_aligned|doseweighted|fractions|eer"
                         r"|frames|movies?|sumcorr|corrfull|motioncorr|motion_?corrected|corrected|average|avg|ave|sum"
                         r"|denoised)$", re.IGNORECASE)
_NUMBER = re.compile(r"^\d{15,}_")

# Names in a message.
_LISTED = 3

T = TypeVar("T")


@dataclass(frozen=True)
class NameMatch:
    """The micrographs that two lists of names have in common.

    Attributes
    ----------
    pairs : dict of str to str
        Name in the second list by name in the first.
    rules : dict of str to str
        What each pair was matched by, by name in the first list: "path", "file name" or the part that was ignored.
    only_first, only_second : tuple of str
        Names that have no partner.
    """

    pairs: dict[str, str]
    rules: dict[str, str]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def describe(self) -> str:
        """Return a sentence part about the rules, each with its first pair."""
        examples: dict[str, str] = {}
        for first, rule in self.rules.items():
            examples.setdefault(rule, f"{first} is {self.pairs[first]}")
        numbers = Counter(self.rules.values())
        return "; ".join(f"{numbers[rule]} by {rule} ({example})" for rule, example in examples.items())


def micrograph_of(path: Path) -> str:
    """Return the name of the micrograph that a coordinate file belongs to.

    Parameters
    ----------
    path : Path
        A .box or .star file.

    Returns
    -------
    str
        Path without extension; for a .star file also without a final _autopick, _manualpick, _coords or _picks.
    """
    name = os.path.splitext(path.as_posix())[0]
    return _strip(name, _PICKS) if path.suffix.lower() == ".star" else name


def match_names(first: Iterable[str], second: Iterable[str], what: Sequence[object]) -> NameMatch:
    """Find the micrographs that two lists of names have in common.

    Parameters
    ----------
    first, second : iterable of str
        Names, each once. Folders are separated by slashes or backslashes.
    what : sequence of object
        What the two lists belong to, for messages.

    Returns
    -------
    NameMatch

    Raises
    ------
    DeepEMError
        If a name could be that of several micrographs of the other list.

    Notes
    -----
    Three rules are applied in order, each to the names that are left. (1) Names are the same in full; or their last
    part is, and of all names with it these two have the longest common end of the path with each other; or both lists
    have this last part only once. (2) As (1), without what file names add: .mrc in x.mrc.gz, _autopick. (3) As (2),
    without what motion correction adds: _DW, _doseweighted, cryoSPARC's number.

    Examples
    --------
    >>> match_names(["/data/Jul/a", "/data/Aug/a"], ["mics/Aug/a", "mics/Jul/a"], ("micrographs", "coordinates")).pairs
    {'/data/Jul/a': 'mics/Jul/a', '/data/Aug/a': 'mics/Aug/a'}
    """
    first, second = list(first), list(second)
    known = set(second)
    pairs = {name: name for name in first if name in known}
    rules = dict.fromkeys(pairs, "path")
    for key in (str, _without_file_endings, _without_processing):
        for mine, others in _groups(first, second, key):
            for left, right in _pair(mine, others, pairs, what).items():
                pairs[left], rules[left] = right, _rule(left, right, key)
    taken = set(pairs.values())
    return NameMatch({name: pairs[name] for name in first if name in pairs}, rules,
                     tuple(name for name in first if name not in pairs),
                     tuple(name for name in second if name not in taken))


def by_micrograph(micrographs: Mapping[str, Path], found: Mapping[str, T], source: object) -> tuple[dict[str, T],
                                                                                                  NameMatch]:
    """Assign what was read from a file to micrographs.

    Parameters
    ----------
    micrographs : mapping of str to Path
        Files by name, from `find_micrographs`.
    found : mapping of str to T
        Coordinates, for instance, by the name that their file states.
    source : object
        That file, for messages.

    Returns
    -------
    assigned : dict of str to T
        By the names of `micrographs`.
    match : NameMatch
        Of the paths of the micrographs, or the names that were given to them, and the names of the file.

    Raises
    ------
    DeepEMError
        See `match_names`.
    """
    own = has_own_name(micrographs)
    # A name that was given to a micrograph comes before its path.
    known = {name if name in own and name in found else os.path.splitext(os.path.abspath(path))[0]: name
             for name, path in micrographs.items()}
    match = match_names(known, found, ("the micrographs", source))
    return {known[path]: found[name] for path, name in match.pairs.items()}, match


def core_of(name: str) -> str:
    """Return the last part of a name without all that `match_names` may ignore.

    Parameters
    ----------
    name : str
        Name of a micrograph, or its path without extension.

    Returns
    -------
    str
        Two names that belong together have the same one.

    Examples
    --------
    >>> core_of("MotionCorr/job002/mic_1_DW"), core_of("mic_1.mrc")
    ('mic_1', 'mic_1')
    """
    return _without_processing(_parts(name)[-1])


def copies(micrographs: Mapping[str, Path]) -> list[list[str]]:
    """Find micrographs that may be the same one: x.mrc and x_DW.mrc of one folder, or links to one file.

    Parameters
    ----------
    micrographs : mapping of str to Path
        Files by name.

    Returns
    -------
    list of list of str
        Names that belong together, two or more each.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, path in micrographs.items():
        folder, file = os.path.split(os.path.abspath(path))
        groups[folder, core_of(os.path.splitext(file)[0])].append(name)
        groups["", real_path(path)].append(name)
    return list(map(list, dict.fromkeys(tuple(names) for names in groups.values() if len(names) > 1)))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each name its shortest end, in whole folders, in which it differs from all others."""
    parts = {name: _parts(name) for name in names}
    short: dict[str, str] = {}
    length = 1
    while len(short) < len(parts):
        numbers = Counter(each[-length:] for each in parts.values())
        for name, each in parts.items():
            if name not in short and (numbers[each[-length:]] == 1 or len(each) <= length):
                short[name] = "/".join(each[-length:])
        length += 1
    return short


def listed(names: Iterable[str]) -> str:
    """Return the first names of a list and how many there are more."""
    names = list(names)
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")) or (name,)


def _without_file_endings(last: str) -> str:
    # A name with accents may be written in two ways: macOS takes them apart.
    return _strip(unicodedata.normalize("NFC", last), _FILE_ENDINGS)


def _without_processing(last: str) -> str:
    return _strip(_NUMBER.sub("", _without_file_endings(last)), _PROCESSING)


def _strip(text: str, ending: re.Pattern[str]) -> str:
    while (shorter := ending.sub("", text)) not in ("", text):
        text = shorter
    return text


def _groups(first: list[str], second: list[str], key: Callable[[str], str]) -> list[tuple[list[str], list[str]]]:
    """Return the names of both lists that have the same last part, as `key` sees it."""
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, names in enumerate((first, second)):
        for name in names:
            groups[key(_parts(name)[-1])][side].append(name)
    return [(mine, others) for mine, others in groups.values() if mine and others]


def _pair(first: list[str], second: list[str], known: Mapping[str, str], what: Sequence[object]) -> dict[str, str]:
    """Pair the names of one group that have no partner yet."""
    taken = set(known.values())
    if all(name in known for name in first) or all(name in taken for name in second):
        return {}
    if len(first) == len(second) == 1:
        return {first[0]: second[0]}
    found: dict[str, str] = {}
    for folders in range(max(len(_parts(name)) for name in first) - 1, 0, -1):
        lefts, rights = _by_folders(first, folders), _by_folders(second, folders)
        for end in lefts.keys() & rights.keys():
            left, right = lefts[end][0], rights[end][0]
            if len(lefts[end]) == len(rights[end]) == 1 and left not in {**known, **found} \
                    and right not in taken.union(found.values()):
                found[left] = right
    mine = [name for name in first if name not in {**known, **found}]
    others = [name for name in second if name not in taken.union(found.values())]
    if mine and others:
        nobody = len(found) + sum(name in known for name in first) == 0
        bare = any(len(_parts(name)) == 1 for name in mine + others)
        if nobody or bare or _by_folders(mine, 1).keys() & _by_folders(others, 1).keys():
            raise DeepEMError(
                f"It is not clear which micrographs are the same: {what[0]}: {listed(mine)}; {what[1]}: "
                f"{listed(others)}. Expected paths of which the ends agree, or file names that occur once on either "
                "side: name the micrographs with their folders, or give one folder at a time.")
    return found


def _by_folders(names: list[str], folders: int) -> dict[tuple[str, ...], list[str]]:
    """Return the names by this many last folders; those that have fewer are left out."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        parts = _parts(name)
        if len(parts) > folders:
            found[parts[-folders - 1:-1]].append(name)
    return found


def _rule(left: str, right: str, key: Callable[[str], str]) -> str:
    """Say by what two names were paired."""
    mine, other = (unicodedata.normalize("NFC", _parts(name)[-1]) for name in (left, right))
    if mine == other:
        return "path" if _parts(left)[-2:] == _parts(right)[-2:] and len(_parts(left)) > 1 else "file name"
    core, ignored = key(mine), []
    for last in (mine, other):
        before, _, after = last.partition(core)
        ignored += ["cryoSPARC's number"] * bool(before) + [repr(after)] * bool(after)
    return f"file name without {' and '.join(dict.fromkeys(ignored))}"
