# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The formats by name, and which of them a file has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeepEMError
from ..box import read_box
from ..coordinates import Coordinates
from ..names import micrograph_of
from ..star import read_star
from . import cryolo, cryoppp, cryosparc, eman, napari, relion, topaz, warp, xmipp
from .base import MicrographPicks, reading

if TYPE_CHECKING:
    from .base import Infos

    Read = Callable[[Path, str, Infos], dict[str, Coordinates]]
    Write = Callable[[Path, Sequence[MicrographPicks]], list[Path]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Format:
    """A format of coordinate files.

    Attributes
    ----------
    program : str
        The program, and what it calls the files.
    extensions : tuple of str
        Extensions of its files, in lower case; the content decides where several formats have the same.
    read : callable
        Reads a file to coordinates by name of the micrograph. Called with the file, the name of the micrograph for
        files that do not state it, and the sizes of micrographs.
    write : callable or None
        Writes files into a folder and returns them; None if the format is only read.
    """

    program: str
    extensions: tuple[str, ...]
    read: Read
    write: Write | None


FORMATS = {
    "eman": Format("EMAN2 .box", (".box",), lambda path, name, infos: {name: read_box(path)}, eman.write_boxes),
    "eman-json": Format("EMAN2 info/*.json", (".json",), eman.read_json, eman.write_json),
    "relion": Format("RELION .star", (".star",), lambda path, name, infos: read_star(path, name), relion.write_relion),
    "cryolo": Format("crYOLO .cbox", (".cbox",), cryolo.read_cbox, cryolo.write_cbox),
    "topaz": Format("Topaz .txt", (".txt", ".tab", ".csv"), topaz.read_table, topaz.write_table),
    "via": Format("VGG image annotator .csv (Topaz)", (".csv",), topaz.read_via, None),
    "cryosparc": Format("cryoSPARC .cs", (".cs", ".npy"), cryosparc.read_cs, cryosparc.write_cs),
    "cryoppp": Format("CryoPPP .csv", (".csv",), cryoppp.read_csv, cryoppp.write_csv),
    "xmipp": Format("Xmipp .pos, .xmd", (".pos", ".xmd"), xmipp.read_pos, xmipp.write_pos),
    "napari": Format("napari points .csv", (".csv",), napari.read_points, napari.write_points),
    "warp": Format("Warp .star", (".star",), lambda path, name, infos: read_star(path, name), warp.write_warp),
    "m": Format("M .star", (".star",), warp.read_m, None),
}
EXTENSIONS = tuple(dict.fromkeys(extension for each in FORMATS.values() for extension in each.extensions))
# Column of the first line that distinguishes the formats of text tables.
_TABLES = {topaz.COLUMN: "topaz", topaz.VIA_COLUMN: "via", cryoppp.COLUMN: "cryoppp", napari.COLUMN: "napari"}


def format_of(path: Path) -> str:
    """Recognise the format of a file by its extension and, where that is not enough, its content.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
        Key of `FORMATS`.

    Raises
    ------
    DeepEMError
        If the file has none of the formats, or cannot be read.
    """
    extension = path.suffix.lower()
    names = [name for name, each in FORMATS.items() if extension in each.extensions]
    if extension == ".star":
        with reading(path) as handle:
            return "m" if any(line.split()[:1] == [f"_{warp.M_LABELS[0]}"] for line in handle) else "relion"
    if len(names) == 1 and names != ["topaz"]:
        return names[0]
    if names:
        with reading(path) as handle:
            first = handle.readline(10_000)
        labels = [label.strip().strip('"') for label in first.replace("\t", ",").split(",")]
        for column, name in _TABLES.items():
            if column in labels:
                return name
        raise DeepEMError(f"{path}: the first line names none of the columns {', '.join(_TABLES)}. Expected a table of "
                          "Topaz, CryoPPP or napari.")
    raise DeepEMError(f"{path} has none of the formats of coordinates. Expected one of {', '.join(EXTENSIONS)}.")


def files_of_one_format(files: Iterable[Path], main: Sequence[str] = ()) -> list[Path]:
    """Return those files of a folder that are read together, and warn of those of other formats.

    Parameters
    ----------
    files : iterable of Path
        Other files may be among them.
    main : sequence of str
        Extensions of the files to be read, if there are any.

    Returns
    -------
    list of Path
        Otherwise those of the format of the first file that has any.
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        if (kind := file.suffix.lower()) in EXTENSIONS:
            with suppress(DeepEMError):
                found.setdefault("" if kind in main else format_of(file), []).append(file)
    if "" in found:
        found.pop("eman-json", None)  # as any other .json file, for instance of a picking run
    chosen = found.pop("" if "" in found else next(iter(found), ""), [])
    if others := [file for each in found.values() for file in each]:
        log.warning("warning: %s is read, with the other files of its format; left out: %d of other formats, for "
                    "instance %s. Give these in a folder of their own", chosen[0], len(others), others[0])
    return chosen


def read_file(path: Path, name: str | None = None, infos: Infos | None = None) -> dict[str, Coordinates]:
    """Read a file of coordinates of any format.

    Parameters
    ----------
    path : Path
    name : str, optional
        Name of the micrograph for files that do not state it; by default that of the file.
    infos : mapping of str to MicrographInfo, optional
        Sizes of the micrographs, which some formats need.

    Returns
    -------
    dict of str to Coordinates
        Coordinates by name of the micrograph.

    Raises
    ------
    DeepEMError
        If the file cannot be read, is invalid, or has none of the formats.
    """
    return FORMATS[format_of(path)].read(path, micrograph_of(Path(path.name)) if name is None else name, infos or {})


def write_files(name: str, folder: str | Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write picks in a format.

    Parameters
    ----------
    name : str
        Key of `FORMATS`.
    folder : str or Path
        Folder for the files; made where it does not exist.
    picks : sequence of MicrographPicks

    Returns
    -------
    list of Path
        Files written; if one of them lists the others it is the first.

    Raises
    ------
    DeepEMError
        If there is no such format to write, a file cannot be written, or something that the format holds is not known.
    """
    check_formats(name)
    write = FORMATS[name].write
    assert write is not None
    return write(Path(folder), picks)


def check_formats(text: str) -> list[str]:
    """Return the names of formats that are separated by commas; raises DeepEMError if one of them is not written.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str
        Keys of `FORMATS`.
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    known = [name for name, each in FORMATS.items() if each.write]
    for name in names:
        if name not in known:
            raise DeepEMError(f"{name!r} is no format that can be written. Expected one of {', '.join(known)}.")
    return names
