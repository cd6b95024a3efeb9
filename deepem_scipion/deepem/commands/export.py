# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem export`: write the networks of a model for other programs."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from ..errors import DeepEMError
from . import console

log = logging.getLogger("deepem")

SUMMARY = "write a model for other programs"
REQUIRED = ("MODEL", "--onnx FILE")
DESCRIPTION = ("Write the networks of a model as an ONNX graph, for programs that run such graphs. docs/onnx.md "
               "describes its input, its output, and how micrographs are normalised. Needs the package onnx.")
EPILOG = """example:
  deepem export apoferritin.deepem --onnx apoferritin.onnx"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem export` to its parser."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model file")
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="file to write")


def run(options: argparse.Namespace) -> int:
    """Run `deepem export`; returns the exit code."""
    from ..atomic import atomic_write, check_no_input
    from ..model.files import load_model
    from ..network.onnx_graph import onnx_graph

    check_no_input(options.onnx, options.model)
    model = load_model(options.model)
    if model.ranges_px is not None:
        raise DeepEMError(f"{options.model} picks by the paper's procedure, which normalises each box: a graph that "
                          "scans a whole micrograph cannot. Give a model of the default procedure")
    if model.agreement is not None:
        log.warning("warning: the graph has the scores of the network. `deepem pick` also compares the candidates of a "
                    "micrograph with each other, and the threshold of this model is for the scores that result")
    graph = onnx_graph(model.geometry, model.networks, {"deepem_card": json.dumps(model.card(), allow_nan=False)})
    with atomic_write(options.onnx, "wb") as handle:
        handle.write(graph.SerializeToString())
    console.print_result(f"network written to {options.onnx}")
    return console.OK
