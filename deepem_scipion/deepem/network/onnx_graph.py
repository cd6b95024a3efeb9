# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks of a model as one ONNX graph, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Mapping

import numpy as np

from ..errors import DeepEMError
from .geometry import Geometry
from .scan import Weights, rotated_weights

if TYPE_CHECKING:
    import onnx

# Old enough for most programs.
OPSET, IR_VERSION = 13, 8


def onnx_graph(geometry: Geometry, networks: Sequence[Weights], metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Write networks and rotations as one graph, from images to their mean scores.

    Parameters
    ----------
    geometry : Geometry
        Sizes of the layers of all networks.
    networks : sequence of mappings of str to array
        Weights of each network, see `Geometry.weight_shapes`.
    metadata : mapping of str to str
        Stored with the graph.

    Returns
    -------
    onnx.ModelProto
        Input `pixels`, (n, 1, rows, cols) float32: normalised images, at least as large as the box. Output `scores`,
        (n, 1, i, j) float32: mean over networks and four rotations for the boxes at rows and columns 0, p, 2 p, ...,
        where p is the product of the pools.

    Raises
    ------
    DeepEMError
        If the package onnx is not installed.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise DeepEMError(f"writing ONNX needs the package onnx, which cannot be imported ({error}); install it with: "
                          "pip install 'scipion-em-deepem[onnx]'") from error
    rotated = [rotated_weights(geometry, weights, turn) for weights in networks for turn in range(4)]
    nodes, constants, value = [], [], "pixels"
    for number, name in enumerate(("conv1", "conv2", "conv3", "dense"), 1):
        kernels = np.concatenate([w[f"{name}.kernel"] for w in rotated], axis=3).transpose(3, 2, 0, 1)
        biases = np.concatenate([w[f"{name}.bias"] for w in rotated])
        constants += [numpy_helper.from_array(np.ascontiguousarray(kernels, np.float32), f"{name}.kernel"),
                      numpy_helper.from_array(np.ascontiguousarray(biases, np.float32), f"{name}.bias")]
        nodes += [helper.make_node("Conv", [value, f"{name}.kernel", f"{name}.bias"], [name],
                                   group=1 if number == 1 else len(rotated)),
                  helper.make_node("Sigmoid", [name], [f"{name}.sigmoid"])]
        value = f"{name}.sigmoid"
        if name != "dense":
            pool = [geometry.pools[number - 1]] * 2
            nodes.append(helper.make_node("AveragePool", [value], [f"pool{number}"], kernel_shape=pool, strides=pool))
            value = f"pool{number}"
    nodes.append(helper.make_node("ReduceMean", [value], ["scores"], axes=[1], keepdims=1))
    graph = helper.make_graph(
        nodes, "deepem", [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 1, "rows", "cols"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1, "i", "j"])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                              producer_name="deepem")
    helper.set_model_props(model, dict(metadata))
    return model
