# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem studio`: check picks, correct them and train on the corrections, in the browser."""

from __future__ import annotations

import argparse
import getpass
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeepEMError
from . import console
from .arguments import COORDINATES, add_masks, add_threads, add_tiff_rows, angst
from .limits import add_limits, given_limits

if TYPE_CHECKING:
    from ..studio.starting import Wanted

log = logging.getLogger("deepem")

SUMMARY = "see picks, correct them, in the browser"
REQUIRED = ("[MICROGRAPHS ... | RESULTS]",)
DESCRIPTION = ("Open micrographs, or the output folder of `deepem pick`, in the browser: see picks and all other "
               "candidates, move the limits, add and remove particles. Everything is saved at once; the same command "
               "resumes the session. The page is served on this machine only. An option that is not given is as the "
               "session, the picking run or the model has it, whatever default is stated below.")
EPILOG = """examples:
  deepem studio mics --diameter 120
  deepem studio mics --model apoferritin.deepem
  deepem studio picks
  deepem studio mics --coordinates topaz.star
  deepem studio --project deepem-studio

Particles and negatives that were marked are written to the folders `particles` and `negatives` of the session, as .box
files for `deepem train --coordinates` and `--negatives`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem studio` to its parser."""
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="micrographs (files, folders, quoted patterns or "
                        "lists), or one output folder of `deepem pick`; nothing if --project names a session to resume")
    parser.add_argument("--project", type=Path, metavar="DIR", help="folder of the session (default: `studio` in the "
                        "output folder of `deepem pick`, otherwise `deepem-studio`)")
    parser.add_argument("--model", type=Path, metavar="MODEL", help="model to pick with (default: the general model)")
    parser.add_argument("--diameter", type=angst, metavar="A", help="particle diameter in angstrom; it can also be set "
                        "on the page")
    parser.add_argument("--pixel-size", type=angst, metavar="A", help="pixel size of the micrographs in angstrom "
                        "(default: from their headers)")
    add_tiff_rows(parser)
    parser.add_argument("--box", type=int, metavar="PX", help="side of the boxes written, in pixels of the micrographs "
                        "(default: 1.5 particle diameters)")
    parser.add_argument("--contrast", choices=("dark", "bright"), help="particles are dark (default) or bright; it "
                        "can also be set on the page")
    parser.add_argument("--coordinates", type=Path, metavar="COORDS", help="coordinates to correct, of any picker: "
                        f"{COORDINATES}")
    parser.add_argument("--ctf", type=Path, metavar="FILE", help="defocus of the micrographs, as in RELION's "
                        "micrographs_ctf.star (default: that of the list of micrographs, if it is such a file)")
    parser.add_argument("--save", action="store_true", help="save the picks of all micrographs at the end, like the "
                        "button *Save picks*")
    add_masks(parser)
    add_limits(parser)
    # What is not given is as the session, the run or the model has it.
    parser.set_defaults(tiff_rows=None, threshold=None, std_range=None, max_mask=None, keep_best=None, at_least=None,
                        border=None)
    _add_comparison(parser)
    group = parser.add_argument_group("page")
    group.add_argument("--no-browser", action="store_true", help="print the address only")
    group.add_argument("--port", type=int, metavar="N", help="port (default: the first free one from 8642 on)")
    group.add_argument("--host", default="127.0.0.1", metavar="NAME", help="interface to listen on (default: "
                       "%(default)s, which other machines cannot reach)")
    group.add_argument("--choose", type=Path, metavar="FILE", help="for programs that open the studio: a button that "
                       "writes limits, diameter and box to FILE (JSON) and ends the studio")
    group.add_argument("--choose-label", default="Use these values", metavar="TEXT", help="text of that button "
                       "(default: %(default)s)")
    add_threads(group)


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("comparison with reference coordinates")
    group.add_argument("--reference", type=Path, metavar="COORDS", help="reference coordinates, a folder of .box or "
                       ".star files, or one such file")
    group.add_argument("--distance", type=angst, metavar="A", help="maximum distance of a correct pick from its "
                       "particle in angstrom (default: half a diameter)")
    group.add_argument("--regions", type=Path, metavar="FILE", help="annotated part of each micrograph, as for `deepem "
                       "evaluate`")
    group.add_argument("--compare", nargs="+", default=[], metavar="[LABEL=]FILE", help="figures of other evaluations, "
                       "as written by `deepem evaluate --json`, whose curves are drawn beside")


def run(options: argparse.Namespace) -> int:
    """Run `deepem studio`; returns the exit code."""
    try:
        from ..studio.assigning import problems_of
        from ..studio.choosing import Choice
        from ..studio.opening import open_session
        from ..studio.serving import Address, open_browser, serve
    except ImportError as error:
        raise DeepEMError(f"the studio needs a package that is missing ({error.name}); install it with: pip install "
                          "starlette uvicorn") from error
    try:
        project, settings = open_session(_wanted(options))
    except DeepEMError as error:
        raise _of_a_session(options.sources) or error from None
    if settings.assumed:
        log.warning("warning: no --diameter was given: %g A is assumed. Drag across a particle on the page, "
                    "from edge to edge", settings.diameter_angst)
    for problem in problems_of(settings, options.pixel_size):
        log.warning("warning: %s", problem)

    def ready(address: Address) -> None:
        console.print_result(f"studio: {address.url}")
        if options.no_browser or not open_browser(address, project.folder):
            log.info("on another computer: ssh -L %d:127.0.0.1:%d %s@%s, and open this address there", address.port,
                     address.port, getpass.getuser(), socket.gethostname())
        log.info("%d micrographs; saved in %s; end with Ctrl+C", len(settings.micrographs), project.folder)

    choice = Choice(options.choose, options.choose_label) if options.choose else None
    serve(project, settings, options.host, options.port, options.threads, options.save, choice, ready)
    log.info("the session is saved in %s", project.folder)
    if project.output.path("star").exists():
        log.info("its picks for other programs: deepem convert %s export --to relion,cryosparc", project.folder)
    elif choice is None:
        log.info("no picks were saved; this saves them at the end: deepem studio --project %s --save", project.folder)
    return console.OK


def _of_a_session(sources: list[str]) -> DeepEMError | None:
    """The error of somebody who gave the folder of a session for that of micrographs."""
    from ..picking.results import PickingResults
    from ..studio.project import IN_RESULTS
    from ..studio.saved import session_of

    session = session_of(sources[0]) if len(sources) == 1 else None
    if session is None:
        return None
    results = PickingResults(session.folder.parent)
    beside = results.exists() and session.folder.name == IN_RESULTS
    how = f"deepem studio {results.folder}" if beside else f"deepem studio --project {session.folder}"
    return DeepEMError(f"{sources[0]}: this is a session of the studio. Open it with `{how}`.")


def _wanted(options: argparse.Namespace) -> Wanted:
    """What the arguments ask for."""
    from ..studio.starting import Wanted

    compared = [each.rpartition("=") for each in options.compare]
    return Wanted(
        options.sources, options.project, options.model, pixel_size_angst=options.pixel_size,
        diameter_angst=options.diameter, coordinates=options.coordinates, reference=options.reference,
        regions=options.regions, compared={label or Path(path).stem: Path(path) for label, _, path in compared},
        distance_angst=options.distance, masks=options.masks, ctf=options.ctf, box_px=options.box,
        tiff_rows=options.tiff_rows, bright=None if options.contrast is None else options.contrast == "bright",
        limits=given_limits(options, options.coordinates is not None))
