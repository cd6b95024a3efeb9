# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picks as an external job of a running cryoSPARC, by its own library, cryosparc-tools."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DeepEMError
from ..names import listed, match_names
from .base import MicrographPicks
from .cryosparc import SCORE, locations

log = logging.getLogger(__name__)

INPUT, OUTPUT = "micrographs", "particles"
_TARGET = re.compile(r"(?P<host>[^/:\s]+):(?P<port>\d{1,5})/(?P<project>P\d+)/(?P<workspace>W\d+)"
                     r"/(?P<job>J\d+)/(?P<output>\w+)")
# Height over width of a micrograph may differ by this share from that of its exposure, as binning cuts pixels.
_ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Target:
    """Where picks go in cryoSPARC.

    Attributes
    ----------
    host : str
        Computer on which cryoSPARC runs.
    port : int
        Base port, that of its pages.
    project, workspace : str
        Such as P3 and W1.
    job, output : str
        The job with the micrographs, such as J5, and the name of that output, such as micrographs or exposures.
    """

    host: str
    port: int
    project: str
    workspace: str
    job: str
    output: str


def parse_target(text: str) -> Target:
    """Parse the address of a workspace and its micrographs.

    Parameters
    ----------
    text : str
        HOST:PORT/PROJECT/WORKSPACE/JOB/OUTPUT.

    Returns
    -------
    Target

    Raises
    ------
    DeepEMError
        If it is something else.

    Examples
    --------
    >>> parse_target("localhost:39000/P3/W1/J5/micrographs").job
    'J5'
    """
    found = _TARGET.fullmatch(text)
    if found is None:
        raise DeepEMError(f"{text!r}: expected HOST:PORT/PROJECT/WORKSPACE/JOB/OUTPUT of cryoSPARC, such as "
                          "localhost:39000/P3/W1/J5/micrographs, where JOB has the micrographs as OUTPUT.")
    return Target(found["host"], int(found["port"]), *found.group("project", "workspace", "job", "output"))


def push(target: Target, picks: Sequence[MicrographPicks]) -> str:
    """Save picks as a new external job whose input are the micrographs of cryoSPARC, joined by name.

    Parameters
    ----------
    target : Target
    picks : sequence of MicrographPicks
        With the sizes of the micrographs. Those that cryoSPARC does not have are left out; a warning names them.

    Returns
    -------
    str
        Number of the new job, such as J12.

    Raises
    ------
    DeepEMError
        If cryosparc-tools is not installed, cryoSPARC refuses a call or does not answer, none of the micrographs is
        one of its own, or a size is not known or another one.

    Notes
    -----
    Account and password are those of the environment, or of an earlier login; cryosparc-tools reads them, see its
    documentation.
    """
    try:
        from cryosparc.tools import CryoSPARC
    except ImportError as error:
        raise DeepEMError("cryosparc-tools is not installed. Install the version of your cryoSPARC, for instance "
                          "`pip install cryosparc-tools~=4.7.0`; without it, import picks.cs in cryoSPARC.") from error
    try:
        server = CryoSPARC(host=target.host, base_port=target.port)
        exposures = server.find_job(target.project, target.job).load_output(target.output)
        columns = _joined(picks, _by_path(exposures), target)
        job = server.create_external_job(target.project, target.workspace, title="DeepEM",
                                         desc="Picks of DeepEM, from `deepem convert --push`.")
        job.connect(INPUT, target.job, target.output, slots=["micrograph_blob"])
        with job.run():
            found = job.add_output("particle", OUTPUT, slots=["location", "pick_stats"], alloc=len(columns[SCORE]))
            for name in columns.keys() & set(found):
                found[name] = columns[name]
            job.save_output(OUTPUT, found)
        return str(job.uid)
    except DeepEMError:
        raise
    except Exception as error:  # of the library, or of the network below it
        raise DeepEMError(f"cryoSPARC at {target.host}:{target.port}: {error}") from error


def _by_path(exposures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Fields of each exposure by the path of its micrograph."""
    wanted = {"uid": "uid", "shape": "micrograph_blob/shape", "psize_A": "micrograph_blob/psize_A",
              "group": "mscope_params/exp_group_id"}
    fields = {name: field for name, field in wanted.items() if field in exposures}
    return {str(path): {name: exposures[field][row] for name, field in fields.items()}
            for row, path in enumerate(exposures["micrograph_blob/path"])}


def _joined(picks: Sequence[MicrographPicks], exposures: Mapping[str, Mapping[str, Any]],
            target: Target) -> dict[str, np.ndarray]:
    """Columns of the locations in the micrographs of cryoSPARC."""
    own = {os.path.splitext(each.path)[0]: each for each in picks}
    others = {os.path.splitext(path)[0]: path for path in exposures}
    match = match_names(own, others, ("the picks", f"{target.job}/{target.output}"))
    if not match.pairs:
        raise DeepEMError(f"none of the {len(own)} micrographs ({listed(own)}) is one of the {len(others)} of "
                          f"{target.job}/{target.output} ({listed(others)}). Expected the same file names.")
    if match.only_first:
        log.warning("warning: %d micrographs are not in %s/%s, and their picks are left out: %s", len(match.only_first),
                    target.job, target.output, listed(match.only_first))
    parts = [_in_exposure(own[name], others[other], exposures[others[other]]) for name, other in match.pairs.items()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _in_exposure(picks: MicrographPicks, path: str, exposure: Mapping[str, Any]) -> dict[str, np.ndarray]:
    table = locations(picks)
    assert picks.info is not None
    (height, width), (rows, columns) = picks.info.shape, map(int, exposure["shape"])
    if abs(height / width * columns / rows - 1) > _ASPECT_TOLERANCE:
        raise DeepEMError(f"{picks.name} has {height} rows and {width} columns, and in cryoSPARC, {path}, {rows} and "
                          f"{columns}. Expected the same field of view.")
    found = {name: table[name] for name in table.dtype.names or () if name != "uid"}
    replaced = {"micrograph_uid": exposure["uid"], "exp_group_id": exposure.get("group", 0),
                "micrograph_psize_A": exposure.get("psize_A", picks.info.pixel_size_angst)}
    found.update({f"location/{name}": np.full(len(table), value) for name, value in replaced.items()})
    found["location/micrograph_path"] = np.array([path] * len(table), object)
    found["location/micrograph_shape"] = np.tile(np.array([rows, columns], np.uint32), (len(table), 1))
    return found
