# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem convert`: coordinates from any format into that of another program."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..errors import DeepEMError
from . import console
from .arguments import COORDINATES, FORMAT_NAMES, add_shifts, angst
from .assigning import read_assigned
from .micrographs import chosen_micrographs

if TYPE_CHECKING:
    from ..coordinates.formats.base import MicrographPicks

log = logging.getLogger(__name__)

SUMMARY = "convert coordinates between the formats of programs"
REQUIRED = ("IN", "OUT", "--to FORMAT")
DESCRIPTION = f"""\
Read coordinates of any format and write them in that of another program.

IN is {COORDINATES}, or an output folder of `deepem pick` or of `deepem studio`, whose picks are written with decimals \
and with the paths of the micrographs. The format of IN is recognised.

Formats: {FORMAT_NAMES}. What each holds, and where to load it, is described in the page "Formats" of the \
documentation."""
EPILOG = """examples:
  deepem convert picks relion --to relion
  deepem convert picks export --to cryosparc,topaz
  deepem convert cryolo/CBOX boxes --to eman
  deepem convert boxes export --to cryosparc --micrographs 'mics/*.mrc'

as a job of a running cryoSPARC, of which J5 has the micrographs:
  deepem convert picks export --to cryosparc \\
      --push localhost:39000/P3/W1/J5/micrographs"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem convert` to its parser."""
    parser.add_argument("input", type=Path, metavar="IN", help="coordinates, or an output folder of `deepem pick` or "
                        "`deepem studio`")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write; with several formats, one folder in "
                        "it for each")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that has files, and replace "
                        "those of the same names; the others stay")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="format to write, or several separated by commas")
    group = parser.add_argument_group("where the format needs it")
    group.add_argument("--micrographs", nargs="+", metavar="MICS", help="the micrographs: their paths and sizes "
                       "(default: those of the picking run or session, if IN is one)")
    group.add_argument("--pixel-size", type=angst, metavar="A", help="pixel size of the micrographs in angstrom "
                       "(default: from their headers)")
    group.add_argument("--box", type=float, metavar="PX", help="side of the boxes in pixels (default: that of IN)")
    add_shifts(group)
    group.add_argument("--coordinate-scale", type=float, default=1.0, metavar="F", help="multiply the coordinates by "
                       "F, for those of micrographs binned by F (default: %(default)g)")
    group.add_argument("--flip-y", action="store_true", help="count y from the other side, for coordinates of "
                       "micrographs that another program holds upside down")
    group.add_argument("--push", metavar="ADDRESS", help="also save the picks as a job of a running cryoSPARC; ADDRESS "
                       "is HOST:PORT/PROJECT/WORKSPACE/JOB/OUTPUT, the output of a job that has the micrographs "
                       "(requires cryosparc-tools, which reads CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD)")


def run(options: argparse.Namespace) -> int:
    """Run `deepem convert`; returns the exit code."""
    from ..coordinates.formats.cryosparc_job import parse_target, push
    from ..coordinates.formats.registry import check_formats, write_files
    from ..picking.box import what_is_cut

    for name, value in (("box", options.box), ("pixel-size", options.pixel_size),
                        ("coordinate-scale", options.coordinate_scale)):
        if value is not None and not 0 < value < 1e6:
            raise DeepEMError(f"--{name} {value:g}: expected a number above 0")
    formats = check_formats(options.to)
    target = None if options.push is None else parse_target(options.push)
    folders = {name: options.output / name if len(formats) > 1 else options.output for name in formats}
    for folder in (options.output, *folders.values()):
        _check_place(folder, options.input)
    if not options.overwrite:
        _check_empty(folders.values())
    picks = [_changed(each, options) for each in _read(options)]
    with TemporaryDirectory() as trial:  # what cannot be written in all formats is written in none
        for name in formats if len(formats) > 1 or options.overwrite else ():
            files = write_files(name, Path(trial, name), picks)
            _check_input([folders[name] / path.relative_to(Path(trial, name)) for path in files], options.input)
    for name, folder in folders.items():
        files = write_files(name, folder, picks)
        console.print_result(f"{sum(len(each.coordinates.scores) for each in picks)} coordinates of {len(picks)} "
                             f"micrographs written to {files[0] if len(files) == 1 else folder} ({name})")
    if cut := what_is_cut(*_cut(picks)):
        log.info("%s", cut)
    if target is not None:
        console.print_result(f"saved as {push(target, picks)} in workspace {target.workspace} of {target.project}")
    return console.OK


def _check_place(folder: Path, source: Path) -> None:
    """Raise DeepEMError if what is written into a folder would replace results, or be read as part of the input."""
    from ..coordinates.read import EXPORTS
    from ..picking.results import PickingResults
    from ..studio.saved import session_of

    place, origin = Path(os.path.realpath(folder)), Path(os.path.realpath(source))
    if place == origin or PickingResults(folder).exists() or session_of(folder):
        raise DeepEMError(f"{folder}: there are the input, or results of a picking run or of the studio, which "
                          "the converted files would replace. Expected another output.")
    if folder.exists() and not folder.is_dir():
        raise DeepEMError(f"{folder} is a file. Expected a folder to write: give another OUT.")
    if origin in place.parents and origin / EXPORTS not in (place, *place.parents):
        raise DeepEMError(f"{folder} is in {source}, with whose files the converted ones would be read the next time. "
                          f"Expected another output, for instance {source / EXPORTS}.")


def _check_empty(folders: Iterable[Path]) -> None:
    """Raise DeepEMError if a folder has files, which those of another conversion would replace or be mixed with."""
    for folder in folders:
        if there := sorted(name for name in os.listdir(folder) if name[0] != ".") if folder.is_dir() else []:
            raise DeepEMError(f"{folder} has files, for instance {there[0]}. Expected a new or empty folder: give "
                              "another OUT, or --overwrite to replace files of the same names and keep the others.")


def _check_input(files: Iterable[Path], source: Path) -> None:
    """Raise DeepEMError if one of the files to write is, or would be, a file of the input."""
    from ..coordinates.read import EXPORTS

    origin = Path(os.path.realpath(source))
    for path in (Path(os.path.realpath(file)) for file in files):
        if origin in (path, *path.parents) and origin / EXPORTS not in path.parents:
            raise DeepEMError(f"{path} is of the input, and would be replaced. Expected another output.")


def _read(options: argparse.Namespace) -> list[MicrographPicks]:
    from ..coordinates.formats.base import MicrographPicks
    from ..coordinates.formats.headers import MicrographHeaders
    from ..coordinates.names import short_names
    from ..picking.export import picks_of_run
    from ..picking.results import PickingResults
    from ..studio.project import IN_RESULTS
    from ..studio.saved import picks_of_session, session_of

    paths = chosen_micrographs(options) if options.micrographs else {}
    results, session = PickingResults(options.input), session_of(options.input)
    if options.coordinate_scale != 1 and (session or results.exists()):
        raise DeepEMError(f"{options.input} has picks in pixels of its micrographs: leave out --coordinate-scale")
    if session:
        return picks_of_session(session, paths)
    if results.exists():
        corrected = session_of(results.folder / IN_RESULTS)
        if corrected and corrected.output.path("star").exists():
            log.warning("warning: these are the picks of the run; to convert those saved in the studio, with its "
                        "corrections, give %s", corrected.folder)
        return picks_of_run(results, paths)
    headers = MicrographHeaders(paths, options.pixel_size)
    found = read_assigned(options.input, paths, options.apply_shifts, options.pixel_size, options.coordinate_scale)
    short = short_names(found)
    return [MicrographPicks(short[name], str(paths.get(name, f"{name}.mrc")), coordinates, headers.get(name))
            for name, coordinates in found.items()]


def _cut(picks: list[MicrographPicks]) -> tuple[int, float]:
    """Number of picks whose boxes leave the micrograph, as far as known, and the side of the largest of all boxes."""
    from ..picking.box import count_cut

    known = [(each.coordinates, each.coordinates.box_px, each.info.shape) for each in picks
             if each.info is not None and each.coordinates.box_px]
    return (sum(count_cut(found.centres_xy, box_px, shape) for found, box_px, shape in known),
            max((box_px for _, box_px, _ in known), default=0.0))


def _changed(picks: MicrographPicks, options: argparse.Namespace) -> MicrographPicks:
    """Apply --box, --pixel-size and --flip-y."""
    import numpy as np

    found, info = picks.coordinates, picks.info
    if options.box is not None:
        found = replace(found, box_px=options.box)
    if info is not None and options.pixel_size is not None:
        info = replace(info, pixel_size_angst=options.pixel_size)
    if options.flip_y:
        if info is None:
            raise DeepEMError(f"{picks.name}: --flip-y needs the height of the micrographs. Give them with "
                              "--micrographs.")
        x, y = found.centres_xy.T
        found = replace(found, centres_xy=np.stack([x, info.shape[0] - 1 - y], axis=1))
    return replace(picks, coordinates=found, info=info)
