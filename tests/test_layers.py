# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layer with the fast gradient is equivalent to the plain convolution layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem.network import layers
from deepem_scipion.deepem.network.architecture import build_network, get_weights, set_weights
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.training.losses import compile_network
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 6), st.integers(0, 6), st.integers(1, 3), st.integers(1, 4))
def test_values_and_gradients_are_those_of_the_plain_convolution(n, kernel, more_rows, more_cols, channels, maps):
    rng = np.random.default_rng(n + 10 * kernel)
    images = tf.constant(rng.normal(size=(n, kernel + more_rows, kernel + more_cols, channels)))
    weights = tf.constant(rng.normal(size=(kernel, kernel, channels, maps)))
    found = []
    for function in (layers.convolve, lambda a, b: tf.nn.conv2d(a, b, 1, "VALID")):
        with tf.GradientTape() as tape:
            tape.watch([images, weights])
            result = function(images, weights)
            total = tf.reduce_sum(tf.sin(result))
        found.append([result, *tape.gradient(total, [images, weights])])
    for fast, plain in zip(*found):
        np.testing.assert_allclose(fast, plain, atol=1e-9)


def test_training_with_large_kernels_gives_the_weights_of_plain_layers(monkeypatch):
    geometry = Geometry(48, (17, 5, 3), (2, 2, 2), (3, 4, 4))
    rng = np.random.default_rng(0)
    boxes = rng.normal(size=(6, 48, 48, 1)).astype(np.float32)
    targets = np.array([0, 1, 0, 1, 1, 0], np.float32).reshape(-1, 1, 1, 1)
    fast = build_network(geometry, seed=1, fully_convolutional=True)
    assert isinstance(fast.get_layer("conv1"), layers.LargeConv2D)
    monkeypatch.setattr(layers, "conv_layer", lambda *_: keras.layers.Conv2D)
    plain = build_network(geometry, seed=2, fully_convolutional=True)
    assert type(plain.get_layer("conv1")) is keras.layers.Conv2D
    set_weights(plain, get_weights(fast, geometry))
    for network in (fast, plain):
        compile_network(network, TRAINING_PRESETS["paper"], 5)
        for _ in range(5):
            network.train_on_batch(boxes, targets)
    for name, value in get_weights(fast, geometry).items():
        np.testing.assert_allclose(value, get_weights(plain, geometry)[name], atol=1e-5)


@pytest.mark.parametrize("kernel, channels, layer", [(51, 1, "LargeConv2D"), (13, 6, "LargeConv2D"),
                                                     (12, 1, "PairedConv2D"), (12, 6, "Conv2D"), (3, 12, "Conv2D")])
def test_layer_class_depends_on_the_size_of_the_kernel_and_the_number_of_channels(kernel, channels, layer):
    assert layers.conv_layer(kernel, channels).__name__ == layer


@pytest.mark.parametrize("cols", [10, 11])
def test_convolution_of_two_columns_at_a_time_is_the_plain_convolution(cols):
    rng = np.random.default_rng(cols)
    images = tf.constant(rng.normal(size=(2, 9, cols, 1)), tf.float32)
    paired, plain = layers.PairedConv2D(6, 4), keras.layers.Conv2D(6, 4)
    found = []
    for layer in (paired, plain):
        layer.build(images.shape)
        layer.set_weights([rng.normal(size=(4, 4, 1, 6)), np.arange(6)] if layer is paired else paired.get_weights())
        with tf.GradientTape() as tape:
            tape.watch(images)
            result = layer(images)
            total = tf.reduce_sum(tf.sin(result))
        found.append([result, *tape.gradient(total, [images, layer.kernel.value])])
    for two, one in zip(*found):
        np.testing.assert_allclose(two, one, atol=1e-5)


@pytest.mark.parametrize("pool, maps", [(2, 6), (3, 1), (1, 4)])
def test_normalisation_sigmoid_and_pooling_in_one_layer_are_those_of_three_layers(pool, maps):
    rng = np.random.default_rng(pool)
    images = tf.constant(rng.normal(1, 2, size=(3, 12, 6, maps)), tf.float32)
    upstream = tf.constant(rng.normal(size=(3, 12 // pool, 6 // pool, maps)), tf.float32)
    together = layers.NormalisedPooling(pool, momentum=0.9)
    plain = keras.layers.BatchNormalization(momentum=0.9)
    gain, offset = rng.normal(size=(2, maps))
    found = []
    for norm, further in ((together, lambda x: x),
                          (plain, lambda x: keras.ops.average_pool(keras.ops.sigmoid(x), pool))):
        norm.build(images.shape)
        norm.gamma.assign(gain)
        norm.beta.assign(offset)
        with tf.GradientTape() as tape:
            tape.watch(images)
            result = further(norm(images, training=True))
            total = tf.reduce_sum(result * upstream)
        gradients = tape.gradient(total, [images, norm.gamma.value, norm.beta.value])
        found.append([result, *gradients, norm.moving_mean.value, norm.moving_variance.value,
                      further(norm(images, training=False))])
    for one, three in zip(*found):
        assert one.shape == three.shape
        np.testing.assert_allclose(one, three, atol=1e-5)
