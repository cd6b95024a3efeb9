# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolution with large kernels whose gradient takes as long as itself.

TensorFlow's own gradient with respect to the kernel is a hundred times slower than the convolution where kernels are as
large as the paper's 51 x 51. The same sums are a convolution of the images with the incoming gradient, images and
channels having changed places, and that is fast.
"""

from __future__ import annotations

from typing import Any

import keras

from .. import runtime

# From this side on the gradient as a convolution is the faster one (measured on two processor cores).
LARGE_KERNEL = 13


class LargeConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with the fast gradient; for `valid` convolutions in steps of one pixel."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve; called by Keras."""
        import tensorflow as tf

        return convolve(inputs, tf.convert_to_tensor(kernel))


def convolve(images: Any, kernel: Any) -> Any:
    """Valid convolution: (n, rows, cols, channels) images, (k, k, channels, maps) kernel."""
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


def layer_for(kernel: int) -> type[keras.layers.Conv2D]:
    """Class of the layer for kernels of this side; only TensorFlow on processors needs ours."""
    ours = kernel >= LARGE_KERNEL and keras.backend.backend() == "tensorflow" and not runtime.on_gpu()
    return LargeConv2D if ours else keras.layers.Conv2D
