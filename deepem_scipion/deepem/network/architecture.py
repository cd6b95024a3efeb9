# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network itself: eight layers, and its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

# Means and deviations over batches are averaged over about 1 / (1 - this) of them.
NORMALISATION_MOMENTUM = 0.9


def build_network(geometry: Geometry, seed: int = 0, whole: bool = False, normalised: bool = False) -> keras.Model:
    """Input, C1, S2, C3, S4, C5, S6 and one fully connected output; sigmoid everywhere (Fig. 1).

    Parameters
    ----------
    geometry : Geometry
    seed : int
        Of the Glorot-uniform start.
    whole : bool
        Take images of any size and score the windows at rows and columns 0, p, 2 p, ... with p the product of the
        pools. The fully connected output is then a convolution with a kernel as large as S6, which is the same sum.
    normalised : bool
        For training: normalise what goes into the sigmoid of each convolution over the batch (Ioffe and Szegedy 2015).
        `get_weights` puts means and deviations into kernels and biases, so that the trained network has no such layer.

    Returns
    -------
    keras.Model
        From windows (n, box, box, 1) to scores (n, 1), or from images (n, rows, cols, 1) to (n, i, j, 1).
    """
    import keras

    from .layers import layer_for

    glorot = [keras.initializers.GlorotUniform(seed=seed * 4 + i) for i in range(4)]
    x = inputs = keras.Input((None, None, 1) if whole else (geometry.box, geometry.box, 1))
    for number, (kernel, pool, maps) in enumerate(zip(geometry.kernels, geometry.pools, geometry.maps), 1):
        x = layer_for(kernel)(maps, kernel, activation=None if normalised else "sigmoid",
                              kernel_initializer=glorot[number - 1], name=f"conv{number}")(x)
        if normalised:
            x = keras.layers.BatchNormalization(momentum=NORMALISATION_MOMENTUM, name=f"norm{number}")(x)
            x = keras.layers.Activation("sigmoid")(x)
        x = keras.layers.AveragePooling2D(pool, name=f"pool{number}")(x)
    if whole:
        output = keras.layers.Conv2D(1, geometry.layer_sizes[-1], activation="sigmoid", kernel_initializer=glorot[3],
                                     name="dense")
    else:
        x = keras.layers.Flatten()(x)
        output = keras.layers.Dense(1, activation="sigmoid", kernel_initializer=glorot[3], name="dense")
    return keras.Model(inputs, output(x))


def widen_start(network: keras.Model) -> None:
    """Make the start of a network suit its sigmoids: four times the Glorot range, biases that centre each stage.

    A logistic sigmoid is four times flatter than the function that Glorot's range was made for (Glorot and Bengio 2010
    give the factor), and what comes out of it lies around 1/2. Without this, stages hand on next to nothing of what
    they see, and the network may sit on a plateau for as long as one waits.
    """
    for name in ("conv1", "conv2", "conv3", "dense"):
        kernel, bias = network.get_layer(name).get_weights()
        kernel = 4 * kernel
        if name != "conv1":  # whose input, the micrograph, has mean 0
            bias = -kernel.sum(axis=tuple(range(kernel.ndim - 1))) / 2
        network.get_layer(name).set_weights([kernel, bias])


def get_weights(network: keras.Model, geometry: Geometry) -> dict[str, np.ndarray]:
    """Weights of a network as float32 arrays named and shaped as in `Geometry.weight_shapes`.

    A normalisation, which is linear once training is over, becomes part of the kernels and biases before it.
    """
    found = {}
    for name, shape in geometry.weight_shapes().items():
        layer, kind = name.split(".")
        found[name] = np.array(getattr(network.get_layer(layer), kind).numpy(), np.float32).reshape(shape)
    for layer in network.layers:
        if layer.name.startswith("norm"):
            name = layer.name.replace("norm", "conv")
            gain, offset, mean, variance = layer.get_weights()
            scale = gain / np.sqrt(variance + layer.epsilon)
            found[f"{name}.kernel"] *= scale
            found[f"{name}.bias"] = offset + scale * (found[f"{name}.bias"] - mean)
    return found


def set_weights(network: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Put weights named as in `Geometry.weight_shapes` into a network."""
    for name in ("conv1", "conv2", "conv3", "dense"):
        layer = network.get_layer(name)
        layer.set_weights([weights[f"{name}.kernel"].reshape(layer.kernel.shape), weights[f"{name}.bias"]])
