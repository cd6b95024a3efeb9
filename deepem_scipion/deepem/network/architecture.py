# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network (Fig. 1): its eight layers, its initial weights, and weights as plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

# Batch normalisation averages means and variances over about 1 / (1 - momentum) batches.
NORMALISATION_MOMENTUM = 0.9
WEIGHTED_LAYERS = ("conv1", "conv2", "conv3", "dense")


def build_network(geometry: Geometry, seed: int = 0, fully_convolutional: bool = False,
                  batch_normalised: bool = False) -> keras.Model:
    """Build the network: input, C1, S2, C3, S4, C5, S6 and one fully connected output, with sigmoids (Fig. 1).

    Parameters
    ----------
    geometry : Geometry
        Sizes of the layers.
    seed : int
        Seed of the Glorot-uniform initial weights.
    fully_convolutional : bool
        Accept images of any size and score the boxes at rows and columns 0, p, 2 p, ..., where p is the product of the
        pools. The output layer is then a convolution with a kernel as large as S6, which computes the same sum.
    batch_normalised : bool
        Normalise the input of each convolution's sigmoid over the batch during training (Ioffe and Szegedy, 2015).

    Returns
    -------
    keras.Model
        From boxes (n, box, box, 1) to scores (n, 1), or from images (n, rows, cols, 1) to (n, i, j, 1).
    """
    import keras

    from .layers import NormalisedPooling, conv_layer

    glorot = [keras.initializers.GlorotUniform(seed=seed * 4 + i) for i in range(4)]
    x = inputs = keras.Input((None, None, 1) if fully_convolutional else (geometry.box, geometry.box, 1))
    for number, (kernel, pool, maps) in enumerate(zip(geometry.kernels, geometry.pools, geometry.maps), 1):
        x = conv_layer(kernel, x.shape[-1])(maps, kernel, activation=None if batch_normalised else "sigmoid",
                               kernel_initializer=glorot[number - 1], name=f"conv{number}")(x)
        if batch_normalised:
            x = NormalisedPooling(pool, momentum=NORMALISATION_MOMENTUM, name=f"norm{number}")(x)
        else:
            x = keras.layers.AveragePooling2D(pool, name=f"pool{number}")(x)
    output = {"activation": "sigmoid", "kernel_initializer": glorot[3], "name": "dense"}
    if fully_convolutional:
        return keras.Model(inputs, keras.layers.Conv2D(1, geometry.layer_sizes[-1], **output)(x))
    return keras.Model(inputs, keras.layers.Dense(1, **output)(keras.layers.Flatten()(x)))


def scale_initial_weights(network: keras.Model) -> None:
    """Adapt Glorot-uniform initial weights to sigmoids: four times their range, biases that centre each layer's input.

    Parameters
    ----------
    network : keras.Model
        As returned by `build_network`; its weights are changed in place.

    Notes
    -----
    Glorot's range is meant for functions with slope 1 at 0. The slope of a logistic sigmoid is 1/4 (Glorot and Bengio,
    2010, state the factor of 4), and its output lies around 1/2. Without this correction each stage passes on very
    little of its input, and training may not converge.
    """
    for name in WEIGHTED_LAYERS:
        kernel, bias = network.get_layer(name).get_weights()
        kernel = 4 * kernel
        if name != "conv1":  # its input, the normalised micrograph, has mean 0
            bias = -kernel.sum(axis=tuple(range(kernel.ndim - 1))) / 2
        network.get_layer(name).set_weights([kernel, bias])


def get_weights(network: keras.Model, geometry: Geometry) -> dict[str, np.ndarray]:
    """Return the weights of a network as arrays.

    Batch normalisation is linear once training is over; it becomes part of the kernels and biases before it.

    Parameters
    ----------
    network : keras.Model
        As returned by `build_network`.
    geometry : Geometry
        Sizes of its layers.

    Returns
    -------
    dict of str to float32 array
        Names and shapes are those of `Geometry.weight_shapes`.
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
    """Set the weights of a network.

    Parameters
    ----------
    network : keras.Model
        As returned by `build_network`.
    weights : mapping of str to array
        Names and shapes are those of `Geometry.weight_shapes`.
    """
    for name in WEIGHTED_LAYERS:
        layer = network.get_layer(name)
        layer.set_weights([weights[f"{name}.kernel"].reshape(layer.kernel.shape), weights[f"{name}.bias"]])
