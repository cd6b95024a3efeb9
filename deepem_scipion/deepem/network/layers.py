# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers that compute the same as those of Keras, in less time on a CPU.

TensorFlow computes the gradient with respect to a kernel as large as the paper's 51 x 51 a hundred times more slowly
than the convolution. The same sums are a convolution of the images with the incoming gradient, with images and
channels exchanged, which is fast.

Batch normalisation, sigmoid and mean pooling take as long as the convolutions of small kernels, since each of their
many operations moves all maps through the memory. Together in one layer they need half of them, and with the maps of a
row as one long vector each is faster.
"""

from __future__ import annotations

from typing import Any

import keras

from .. import runtime

# From this side on the gradient is faster as a convolution (measured on two cores).
LARGE_KERNEL = 13


class LargeConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with the fast gradient, for `valid` convolutions with stride 1."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve; called by Keras."""
        import tensorflow as tf

        return convolve(inputs, tf.convert_to_tensor(kernel))


def convolve(images: Any, kernel: Any) -> Any:
    """Convolve images without padding, with the fast gradient.

    Parameters
    ----------
    images : (n, rows, cols, channels) tensor
        Images.
    kernel : (k, k, channels, maps) tensor
        Kernel.

    Returns
    -------
    (n, rows - k + 1, cols - k + 1, maps) tensor
        Feature maps, of the type of the images.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def with_gradient(images: Any, kernel: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            by_images = tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(images), filter=kernel,
                                                       out_backprop=upstream, strides=[1, 1, 1, 1], padding="VALID")
            by_kernel = tf.nn.conv2d(tf.transpose(images, (3, 1, 2, 0)), tf.transpose(upstream, (1, 2, 0, 3)), 1,
                                     "VALID")
            return by_images, tf.transpose(by_kernel, (1, 2, 0, 3))

        return tf.nn.conv2d(images, kernel, 1, "VALID"), gradient

    return with_gradient(images, kernel)


class PairedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` that computes two columns at a time as twice as many maps.

    A core adds up 16 maps as fast as the 6 of the first layer. Only for `valid` convolutions with stride 1.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve; called by Keras."""
        import tensorflow as tf

        kernel = tf.convert_to_tensor(kernel)
        side, maps = kernel.shape[0], kernel.shape[3]
        pair = tf.concat([tf.pad(kernel, ((0, 0), (0, 1), (0, 0), (0, 0))),
                          tf.pad(kernel, ((0, 0), (1, 0), (0, 0), (0, 0)))], 3)
        cols = tf.shape(inputs)[2] - side + 1
        inputs = tf.pad(inputs, ((0, 0), (0, 0), (0, cols % 2), (0, 0)))
        found = tf.nn.conv2d(inputs, pair, (1, 2), "VALID")
        n, rows, pairs, _ = tf.unstack(tf.shape(found))
        return tf.reshape(found, (n, rows, 2 * pairs, maps))[:, :, :cols]


def conv_layer(kernel: int, channels: int) -> type[keras.layers.Conv2D]:
    """Choose the class of the convolution layer.

    Parameters
    ----------
    kernel : int
        Side of the kernel in pixels.
    channels : int
        Number of maps that it is applied to.

    Returns
    -------
    type
        `LargeConv2D` for large kernels on a CPU, `PairedConv2D` for others of one channel, else `keras.layers.Conv2D`.
    """
    if kernel >= LARGE_KERNEL and not runtime.on_gpu():
        return LargeConv2D
    return PairedConv2D if channels == 1 and not runtime.on_gpu() else keras.layers.Conv2D


class NormalisedPooling(keras.layers.BatchNormalization):
    """Batch normalisation, sigmoid and mean pooling.

    Parameters
    ----------
    pool : int
        Side of the pooling cells. The sides of images must be multiples of it in training; the remainder is left out
        otherwise.
    **options
        Those of `keras.layers.BatchNormalization`.
    """

    def __init__(self, pool: int, **options: Any) -> None:
        super().__init__(**options)
        self.pool = pool

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Apply the layer; called by Keras."""
        if not training:
            return keras.ops.average_pool(keras.ops.sigmoid(super().call(inputs, training=False)), self.pool)
        pooled, mean, variance = normalise_and_pool(inputs, self.gamma.value, self.beta.value, self.epsilon, self.pool)
        for average, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + now * (1 - self.momentum))
        return pooled

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the pooled maps; called by Keras."""
        n, rows, cols, maps = input_shape
        return n, rows and rows // self.pool, cols and cols // self.pool, maps


def normalise_and_pool(images: Any, gain: Any, offset: Any, epsilon: float, pool: int) -> tuple[Any, Any, Any]:
    """Normalise maps over the batch (Ioffe and Szegedy, 2015), apply the sigmoid, and pool.

    Parameters
    ----------
    images : (n, rows, cols, maps) tensor
        Maps; rows and cols are multiples of `pool`.
    gain, offset : (maps,) tensor
        Standard deviation and mean of the normalised maps.
    epsilon : float
        Added to the variance.
    pool : int
        Side of the pooling cells.

    Returns
    -------
    pooled : (n, rows / pool, cols / pool, maps) tensor
        Pooled maps. Its gradient takes the dependence of mean and variance on the images into account.
    mean, variance : (maps,) tensor
        Those of the images. They are constants for the gradient.
    """
    import tensorflow as tf

    shape, maps = tf.shape(images), images.shape[-1]
    cells, cols = shape[0] * shape[1] // pool, shape[2]
    # (n rows, cols maps): the maps of a row are one vector.
    rows = tf.reshape(images, (-1, cols * maps))
    number = tf.cast(tf.size(images) // maps, images.dtype)
    to_cells = tf.tile(tf.eye(maps, dtype=images.dtype), (pool, 1)) / pool**2

    def of_maps(values: Any) -> Any:
        return tf.reduce_sum(tf.reshape(tf.reduce_sum(values, 0), (-1, maps)), 0)

    def along_row(values: Any) -> Any:
        return tf.tile(values, (cols,))

    @tf.custom_gradient
    def with_gradient(rows: Any, gain: Any, offset: Any) -> Any:
        mean = of_maps(rows) / number
        variance = of_maps(tf.square(rows)) / number - tf.square(mean)
        scale = tf.math.rsqrt(variance + epsilon)
        active = tf.sigmoid(rows * along_row(gain * scale) + along_row(offset - mean * gain * scale))
        summed = tf.reduce_sum(tf.reshape(active, (cells, pool, cols * maps)), 1)

        def gradient(upstream: Any, *_: Any) -> tuple[Any, Any, Any]:
            spread = tf.reshape(tf.matmul(upstream, to_cells, transpose_b=True), (cells, 1, cols * maps))
            spread = tf.reshape(tf.broadcast_to(spread, (cells, pool, cols * maps)), tf.shape(active))
            slope = tf.raw_ops.SigmoidGrad(y=active, dy=spread)
            by_offset = of_maps(slope)
            by_gain = (of_maps(slope * rows) - mean * by_offset) * scale
            of_rows = -tf.square(scale) * gain * by_gain / number
            constant = -scale * gain * by_offset / number - of_rows * mean
            by_rows = slope * along_row(gain * scale) + (rows * along_row(of_rows) + along_row(constant))
            return by_rows, by_gain, by_offset

        return (tf.matmul(tf.reshape(summed, (-1, pool * maps)), to_cells), mean, variance), gradient

    pooled, mean, variance = with_gradient(rows, gain, offset)
    pooled = tf.reshape(pooled, (shape[0], shape[1] // pool, cols // pool, maps))
    return pooled, tf.stop_gradient(mean), tf.stop_gradient(variance)
