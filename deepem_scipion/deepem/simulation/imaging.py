# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What surrounds the particles of a simulated field, and how it is imaged and processed, under random conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..coordinates.suppression import non_maximum_suppression
from .scene import Scene, contrast_transfer

FloatArray = NDArray[Any]


def scatter(n: int, size: int, spacing: float, rng: np.random.Generator) -> FloatArray:
    """Place points at random in a square.

    Parameters
    ----------
    n : int
        Maximum number of points; fewer where there is no room.
    size : int
        Side of the square.
    spacing : float
        Minimum distance of two points.
    rng : numpy.random.Generator
        Source of randomness, as below.

    Returns
    -------
    (m, 2) float array
    """
    points = rng.uniform(0, size, (8 * n + 20, 2))
    return np.asarray(points[non_maximum_suppression(points, rng.random(len(points)), spacing)][:n])


@dataclass(frozen=True)
class Film:
    """Support film and gold beads.

    Attributes
    ----------
    share : (size, size) float array
        1 on film, 0 elsewhere.
    roughness : float
        Excess of structured noise on film, in standard deviations of the noise.
    grain : float
        Standard deviation, in pixels, of the Gaussian that smooths that noise in addition.
    darkness : (size, size) float array
        How much darker the image is, in standard deviations of the noise.
    """

    share: FloatArray
    roughness: float
    grain: float
    darkness: FloatArray


def draw_film(size: int, diameter: float, rng: np.random.Generator) -> Film:
    """Draw carbon or gold film with the edge of a hole, and gold beads; most fields have none.

    Parameters
    ----------
    size : int
        Side of the field in pixels.
    diameter : float
        Particle diameter in pixels.
    rng : numpy.random.Generator

    Returns
    -------
    Film
    """
    row, column = np.indices((size, size), float)
    share, darkness = np.zeros((size, size)), np.zeros((size, size))
    kind = rng.choice(["none", "carbon", "gold"], p=(0.6, 0.3, 0.1))
    if kind != "none":
        radius, angle = size * rng.uniform(0.6, 4), rng.uniform(0, 2 * np.pi)
        middle = size / 2 + radius * np.array([np.cos(angle), np.sin(angle)])
        inside = (np.hypot(row - middle[0], column - middle[1]) - radius) * rng.choice([-1, 1])
        inside -= np.quantile(inside, 1 - rng.uniform(0.03, 0.4))
        share = 1 / (1 + np.exp(-np.clip(inside / rng.uniform(0.3, 2), -30, 30)))
        darkness = share * (rng.uniform(0, 2.5) if kind == "carbon" else rng.uniform(3, 9))
        darkness += rng.uniform(0, 3) * np.exp(-np.square(inside / (diameter * rng.uniform(0.05, 0.3))))
    if rng.random() < 0.08:
        bead = diameter * rng.uniform(0.08, 0.6)
        for middle in scatter(rng.integers(1, 25), size, bead, rng):
            disc = np.clip(bead - np.hypot(row - middle[0], column - middle[1]) + 0.5, 0, 1)
            darkness += rng.uniform(5, 15) * disc
            share = np.maximum(share, disc)
    grain = diameter * rng.uniform(0.01, 0.25) * rng.integers(0, 2)
    return Film(share, rng.uniform(0.5, 4) if kind == "carbon" else rng.uniform(0, 1), grain, darkness)


def draw_ice(size: int, diameter: float, contrast: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw uneven ice, and ice crystals and other contaminants, mostly dark.

    Parameters
    ----------
    size, diameter, rng
        As for `draw_film`.
    contrast : float
        Square root of the signal-to-noise ratio of the particles, above which contaminants stand out.

    Returns
    -------
    ice : (size, size) float array
        In standard deviations of the noise.
    centres : (n, 2) float array
        Centres of the contaminants as row, column.
    """
    from scipy.ndimage import gaussian_filter

    row, column = np.indices((size, size), float)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    wave = (row * np.sin(angle) + column * np.cos(angle)) / (1.4 * size)
    ice: FloatArray = rng.uniform(0, 0.8) * rng.integers(0, 2) * np.sin(2 * np.pi * wave + phase)
    if rng.random() < 0.4:
        uneven = gaussian_filter(rng.standard_normal((size, size)), diameter * rng.uniform(0.6, 3))
        ice += uneven * rng.uniform(0, 0.6) / uneven.std()
    centres = rng.uniform(0, size, (int(rng.integers(1, 10)) * int(rng.random() < 0.45), 2))
    texture = gaussian_filter(rng.standard_normal((size, size)), diameter * rng.uniform(0.05, 0.3))
    texture /= texture.std()
    for middle in centres:
        radius = diameter * math.exp(rng.uniform(math.log(0.12), math.log(2.2)))
        turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 1.0)
        down, right = row - middle[0], column - middle[1]
        away = np.hypot(down * np.cos(turn) + right * np.sin(turn),
                        (right * np.cos(turn) - down * np.sin(turn)) / stretch) / radius
        profile = np.exp(-np.clip(away, 0, 10)**rng.choice([2.0, 4.0, 8.0])) * (1 + rng.uniform(0, 0.5) * texture)
        ice -= profile * rng.choice([1, 1, 1, -0.6]) * (contrast * rng.uniform(1.5, 6) + rng.uniform(0, 2))
    return ice, centres


def take_image(mass: FloatArray, film: Film, particles: FloatArray, diameter: float, contrast: float,
           rng: np.random.Generator) -> FloatArray:
    """Image mass and film through the microscope, at a random defocus, voltage and pixel size.

    Parameters
    ----------
    mass : (size, size) float array
        Projected mass of particles and others.
    film : Film
    particles : (n, 2) array
        Centres of the particles as row, column.
    diameter, contrast, rng
        As for `draw_ice`.

    Returns
    -------
    (size, size) float array
        In standard deviations of the noise, which is partly white and partly imaged as the ice is. Particles have
        a signal-to-noise ratio of the square of `contrast`, as in `Scene`.
    """
    from scipy import fft
    from scipy.ndimage import gaussian_filter

    size = len(mass)
    angst = math.exp(rng.uniform(math.log(70), math.log(450))) / diameter  # per pixel
    scene = Scene(pixel_size_angst=angst, defocus_angst=rng.uniform(4e3, 3.6e4), voltage_kv=rng.choice([120, 200, 300]),
                  spherical_aberration_mm=rng.choice([0.01, 2.0, 2.7]), amplitude_contrast=rng.uniform(0.06, 0.2))
    frequency = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None])
    transfer = contrast_transfer(frequency / angst, scene)
    if rng.random() < 0.12:  # negative stain
        transfer = np.full_like(frequency, -1.0)
    envelope = np.exp(-2 * np.square(np.pi * diameter * rng.uniform(0.0, 0.08) * frequency))
    signal = fft.irfft2(fft.rfft2(mass) * transfer * envelope, s=mass.shape)
    signal -= np.median(signal)
    strength = signal[_discs(particles, size, diameter)].std() if len(particles) else signal.std()
    structured = fft.irfft2(fft.rfft2(rng.standard_normal((size, size))) * transfer, s=mass.shape)
    structured /= structured.std()
    share = rng.uniform(0, 0.8)
    noise = math.sqrt(1 - share) * rng.standard_normal((size, size)) + math.sqrt(share) * structured
    if rng.random() < 0.5:
        noise = gaussian_filter(noise, rng.uniform(0.2, 0.9))  # detector
        noise /= noise.std()
    if film.grain:
        structured = gaussian_filter(structured, film.grain)
        structured /= structured.std()
    noise += film.roughness * film.share * structured - film.darkness * rng.uniform(0.3, 1)
    return np.asarray(signal * (contrast / (strength or 1.0)) + noise)


def _discs(centres_rc: FloatArray, size: int, diameter: float) -> NDArray[np.bool_]:
    """Mark the pixels within half a diameter of any centre."""
    from scipy.ndimage import distance_transform_edt

    outside = np.ones((size, size), bool)
    outside[tuple(centres_rc.astype(int).T)] = False
    return np.asarray(distance_transform_edt(outside) <= diameter / 2)


def process(pixels: FloatArray, diameter: float, rng: np.random.Generator) -> FloatArray:
    """Process an image as other programs do: low-pass filter, denoise, even out or equalise some, and leave others.

    Parameters
    ----------
    pixels : (rows, columns) float array
    diameter, rng
        As for `draw_film`.

    Returns
    -------
    (rows, columns) float array
    """
    from scipy.ndimage import gaussian_filter, median_filter

    smooth = low_pass if rng.random() < 0.5 else gaussian_filter
    treatment = rng.choice(["none", "low-pass", "denoised"], p=(0.40, 0.25, 0.35))
    if treatment == "none":
        return pixels
    if treatment == "low-pass":
        return np.asarray(smooth(pixels, diameter * rng.uniform(0.01, 0.06)))
    if rng.random() < 0.3:
        pixels = median_filter(pixels, int(rng.choice([3, 5])))
    pixels = smooth(pixels, diameter * rng.uniform(0.02, 0.09))
    if rng.random() < 0.5:
        wide = diameter * rng.uniform(0.8, 3)
        pixels = pixels - gaussian_filter(pixels, wide)
        pixels /= np.sqrt(gaussian_filter(np.square(pixels), wide)) + 0.2 * pixels.std()
    kind = rng.integers(3)
    if kind == 0:  # histogram equalisation
        return np.asarray(np.argsort(np.argsort(pixels, axis=None)).reshape(pixels.shape) / pixels.size)
    if kind == 1:  # compressed contrast
        return np.asarray(np.tanh((pixels - pixels.mean()) / (pixels.std() * rng.uniform(1, 3))))
    return np.asarray(pixels)


def low_pass(pixels: FloatArray, sigma_px: float, order: float = 4.0) -> FloatArray:
    """Filter an image with a steep edge (Butterworth), below which nothing is weakened.

    Parameters
    ----------
    pixels : (rows, columns) float array
    sigma_px : float
        Standard deviation of the Gaussian that weakens the same frequency by a factor of 2, in pixels.
    order : float
        Steepness of the edge.

    Returns
    -------
    (rows, columns) float array
    """
    from scipy import fft

    limit = math.sqrt(2 * math.log(2)) / (2 * np.pi * sigma_px)
    frequency = np.hypot(fft.fftfreq(pixels.shape[0])[:, None], fft.rfftfreq(pixels.shape[1])[None])
    passed = 1 / np.sqrt(1 + 3 * (frequency / limit) ** (2 * order))
    return np.asarray(fft.irfft2(fft.rfft2(pixels) * passed, s=pixels.shape))
