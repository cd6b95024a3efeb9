# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated micrographs with known particle centres, for tests and demonstrations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeepEMError

FloatArray = NDArray[Any]
# Attempts to place one more particle before a micrograph counts as full.
_PLACEMENT_ATTEMPTS = 2000


@dataclass(frozen=True)
class Scene:
    """Contents and imaging conditions of a simulated micrograph.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    pixel_size_angst : float
        Pixel size in angstrom.
    diameter_angst : float
        Particle diameter in angstrom; distances and the area of the signal are measured with it.
    n_particles : int
        Number of particles.
    snr : float
        Signal-to-noise ratio: variance of the noise-free particle image (after the transfer function) over the pixels
        within half a diameter of any centre, divided by the variance of the noise. Infinite: no noise, and that
        variance is 1.
    defocus_angst : float or None
        Underfocus in angstrom, positive; None images without a transfer function.
    voltage_kv : float
        Acceleration voltage in kilovolts.
    spherical_aberration_mm : float
        Spherical aberration in millimetres.
    amplitude_contrast : float
        Amplitude contrast, 0 to 1.
    noise_correlation_px : float
        Standard deviation, in pixels, of the Gaussian that smooths the noise; 0 is white noise.
    spacing : float
        Minimum distance between particles that do not touch, in diameters.
    margin : float
        Minimum distance of a centre from the border, in diameters; below 0.5 particles may be cut.
    touching_fraction : float
        Fraction of the particles that come in pairs, 0.95 to 1.05 diameters apart.
    gradient : float
        Peak-to-peak height of an uneven background, in standard deviations of the noise.
    ice : int
        Number of dark or bright contaminants.
    carbon : float
        Fraction of the area that is carbon film, which is darker and coarser. No particle lies on film or contaminants.
    """

    shape: tuple[int, int] = (1024, 1280)
    pixel_size_angst: float = 4.4
    diameter_angst: float = 400.0
    n_particles: int = 60
    snr: float = 0.1
    defocus_angst: float | None = 25000.0
    voltage_kv: float = 120.0
    spherical_aberration_mm: float = 2.0
    amplitude_contrast: float = 0.1
    noise_correlation_px: float = 0.0
    spacing: float = 1.2
    margin: float = 0.5
    touching_fraction: float = 0.0
    gradient: float = 0.0
    ice: int = 0
    carbon: float = 0.0

    def __post_init__(self) -> None:
        positive = {"shape": min(self.shape), "pixel size": self.pixel_size_angst,
                    "diameter": self.diameter_angst, "signal-to-noise ratio": self.snr}
        for name, value in positive.items():
            if not value > 0:
                raise DeepEMError(f"The {name} of a simulated micrograph must be above 0, not {value}.")
        if not 0 <= self.margin < math.inf:
            raise DeepEMError(f"The margin of a simulated micrograph must be 0 or more, not {self.margin}.")
        for name, value in {"touching fraction": self.touching_fraction, "carbon": self.carbon}.items():
            if not 0 <= value <= 1:
                raise DeepEMError(f"The {name} of a simulated micrograph must be from 0 to 1, not {value}.")

    @property
    def diameter_px(self) -> float:
        """Particle diameter in pixels of the micrograph."""
        return self.diameter_angst / self.pixel_size_angst


def contrast_transfer(frequency_per_angst: FloatArray, scene: Scene) -> FloatArray:
    """Compute the contrast transfer function, negative at low frequency: density is imaged dark.

    Parameters
    ----------
    frequency_per_angst : array
        Spatial frequencies in 1 / angstrom.
    scene : Scene
        Imaging conditions.

    Returns
    -------
    array
        Transfer at each frequency; -1 everywhere if the scene has no defocus.

    Notes
    -----
    -sqrt(1 - A^2) sin(chi) - A cos(chi) with chi = pi lambda z s^2 - pi/2 Cs lambda^3 s^4, where A is the amplitude
    contrast, z the underfocus and s the spatial frequency.
    """
    if scene.defocus_angst is None:
        return np.full_like(frequency_per_angst, -1.0)
    volts = 1e3 * scene.voltage_kv
    wavelength = 12.2643 / math.sqrt(volts * (1 + 0.978476e-6 * volts))
    squared = np.square(frequency_per_angst)
    chi = np.pi * wavelength * scene.defocus_angst * squared
    chi -= np.pi / 2 * 1e7 * scene.spherical_aberration_mm * wavelength**3 * squared**2
    phase = math.sqrt(1 - scene.amplitude_contrast**2)
    return np.asarray(-phase * np.sin(chi) - scene.amplitude_contrast * np.cos(chi))


def simulate_micrograph(scene: Scene, projections: FloatArray,
                        rng: np.random.Generator) -> tuple[NDArray[np.float32], FloatArray]:
    """Simulate one micrograph.

    Parameters
    ----------
    scene : Scene
        Contents and imaging conditions.
    projections : (n, size, size) array
        Particle images at the scene's pixel size, density positive. Each particle shows one of them, drawn at random
        and rotated in the plane by a random angle.
    rng : numpy.random.Generator
        The only source of randomness.

    Returns
    -------
    pixels : (rows, columns) float32 array
        Micrograph in standard deviations of the noise, particles dark.
    centres_xy : (n, 2) array
        Particle centres as x, y in pixels, not rounded; (0, 2) if there are none.

    Raises
    ------
    DeepEMError
        If there is no room for all particles.
    """
    background, blocked = draw_background(scene, rng)
    centres_xy = _place(scene, blocked, rng)
    signal = _draw(scene, projections, centres_xy, rng)
    if len(centres_xy):
        std = signal[_discs(scene, centres_xy)].std()
        signal *= (1.0 if math.isinf(scene.snr) else math.sqrt(scene.snr)) / std
    if not math.isinf(scene.snr):
        background += _noise(scene.shape, scene.noise_correlation_px, rng)
    return (signal + background).astype(np.float32), centres_xy


def _place(scene: Scene, blocked: NDArray[np.bool_], rng: np.random.Generator) -> FloatArray:
    """Choose centres, (n, 2) as x, y: some in touching pairs, all others at least `spacing` apart."""
    from scipy import ndimage

    diameter = scene.diameter_px
    room = ndimage.distance_transform_edt(~blocked) if blocked.any() else np.full(scene.shape, np.inf)
    upper = np.array(scene.shape[::-1]) - 1 - scene.margin * diameter
    lower = scene.margin * diameter
    centres = np.empty((0, 2))

    def allowed(point: FloatArray, others: FloatArray) -> bool:
        return bool((point >= lower).all() and (point <= upper).all()
                    and room[tuple(np.rint(point[::-1]).astype(int))] > diameter / 2
                    and (np.hypot(*(others - point).T) >= scene.spacing * diameter).all())

    n_paired = 2 * int(scene.touching_fraction * scene.n_particles / 2)
    attempts = 0
    while len(centres) < scene.n_particles and attempts < _PLACEMENT_ATTEMPTS:
        attempts += 1
        group = [rng.uniform(lower, np.maximum(upper, lower))]
        if len(centres) < n_paired:
            angle, distance = rng.uniform(0, 2 * np.pi), diameter * rng.uniform(0.95, 1.05)
            group.append(group[0] + distance * np.array([np.cos(angle), np.sin(angle)]))
        if all(allowed(point, centres) for point in group):
            centres, attempts = np.vstack([centres, *group]), 0
    if len(centres) == scene.n_particles:
        return centres
    raise DeepEMError(f"Only {len(centres)} of {scene.n_particles} particles of diameter {diameter:.0f} px "
                      f"fit into a micrograph of {scene.shape} px; ask for fewer or for a smaller spacing.")


def _draw(scene: Scene, projections: FloatArray, centres_xy: FloatArray,
          rng: np.random.Generator) -> FloatArray:
    """Image the particles through the microscope, (rows, columns)."""
    from scipy import fft, ndimage

    size = projections.shape[-1]
    middle = np.full(2, (size - 1) / 2)
    # With a margin as wide as a particle image nothing wraps around, and cut particles need no special case.
    canvas = np.zeros([fft.next_fast_len(length + 2 * size, real=True) for length in scene.shape])
    for row, column in centres_xy[:, ::-1]:
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corner = np.floor([row, column] - middle).astype(int)
        drawn_middle = [row, column] - corner
        view = ndimage.affine_transform(projections[rng.integers(len(projections))], turn,
                                        middle - turn @ drawn_middle, output_shape=(size + 1, size + 1))
        top, left = corner + size
        canvas[top:top + size + 1, left:left + size + 1] += view
    frequency = np.hypot(fft.fftfreq(canvas.shape[0])[:, None], fft.rfftfreq(canvas.shape[1])[None])
    transfer = contrast_transfer(frequency / scene.pixel_size_angst, scene)
    image = fft.irfft2(fft.rfft2(canvas) * transfer, s=canvas.shape)
    return np.asarray(image[size:size + scene.shape[0], size:size + scene.shape[1]])


def _discs(scene: Scene, centres_xy: FloatArray) -> NDArray[np.bool_]:
    """Mark the pixels within half a diameter of any centre."""
    from scipy import ndimage

    outside = np.ones(scene.shape, bool)
    column, row = np.clip(np.rint(centres_xy).astype(int), 0, np.array(scene.shape[::-1]) - 1).T
    outside[row, column] = False
    return np.asarray(ndimage.distance_transform_edt(outside) <= scene.diameter_px / 2)


def _noise(shape: tuple[int, int], correlation_px: float, rng: np.random.Generator) -> FloatArray:
    """Draw Gaussian noise of standard deviation 1, white or smoothed by a Gaussian (standard deviation in px)."""
    from scipy import fft

    noise = rng.standard_normal(shape)
    if correlation_px == 0:
        return noise
    squared = np.square(fft.fftfreq(shape[0]))[:, None] + np.square(fft.fftfreq(shape[1]))[None]
    weight = np.exp(-2 * np.square(np.pi * correlation_px) * squared)
    weight /= np.sqrt(np.mean(np.square(weight)))
    return np.asarray(fft.ifft2(fft.fft2(noise) * weight).real)


def draw_background(scene: Scene, rng: np.random.Generator) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Draw uneven background, contaminants and carbon film.

    Parameters
    ----------
    scene : Scene
        What to draw.
    rng : numpy.random.Generator
        Source of random numbers; `simulate_micrograph` draws from it in the same order.

    Returns
    -------
    background : (rows, columns) float array
        In standard deviations of the noise.
    blocked : (rows, columns) bool array
        True where no particle may lie: on contaminants and film.
    """
    row, column = np.indices(scene.shape, float)
    background = np.zeros(scene.shape)
    blocked = np.zeros(scene.shape, bool)
    reach = math.hypot(*scene.shape)
    if scene.gradient:
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = (row * np.sin(angle) + column * np.cos(angle)) / reach
        background += scene.gradient / 2 * np.sin(2 * np.pi * wave + phase)
    for _ in range(scene.ice):
        radius = scene.diameter_px * rng.uniform(0.3, 0.9)
        middle, stretch = rng.uniform(0, scene.shape), rng.uniform(0.6, 1.0, 2)
        distance = np.hypot((row - middle[0]) / stretch[0], (column - middle[1]) / stretch[1]) / radius
        background += rng.choice([-3.0, -3.0, 2.0]) * np.exp(-distance**4)
        blocked |= distance < 1.3
    if scene.carbon:
        angle = rng.uniform(0, 2 * np.pi)
        along = (row - scene.shape[0] / 2) * np.sin(angle) + (column - scene.shape[1] / 2) * np.cos(angle)
        across = (row - scene.shape[0] / 2) * np.cos(angle) - (column - scene.shape[1] / 2) * np.sin(angle)
        field = along + across**2 / reach
        field -= np.quantile(field, 1 - scene.carbon)
        film = 1 / (1 + np.exp(-np.clip(field, -30, 30)))
        background += film * (0.5 * _noise(scene.shape, scene.diameter_px / 25, rng) - 1.0)
        blocked |= film > 0.1
    return background, blocked
