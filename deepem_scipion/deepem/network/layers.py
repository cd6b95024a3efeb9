# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolution layer for large kernels whose gradient is as fast as the convolution itself.

On a CPU, TensorFlow computes the gradient with respect to a kernel as large as the paper's 51 x 51 a hundred times more
slowly than the convolution. The same sums are a convolution of the images with the incoming gradient, with images and
channels exchanged, which is fast.
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


def conv_layer(kernel: int) -> type[keras.layers.Conv2D]:
    """Choose the class of the convolution layer.

    Parameters
    ----------
    kernel : int
        Side of the kernel in pixels.

    Returns
    -------
    type
        `LargeConv2D` for large kernels on a CPU, else `keras.layers.Conv2D`.
    """
    return LargeConv2D if kernel >= LARGE_KERNEL and not runtime.on_gpu() else keras.layers.Conv2D
