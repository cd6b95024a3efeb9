# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of studies.py: micrographs with increasing noise (Fig. 6), picked by networks and by a matched filter."""

import math
from dataclasses import replace
from pathlib import Path

import common
import mrcfile
import numpy as np
from common import table
from study import (
    COARSE,
    DISTANCE,
    N_VIEWS,
    NOISY,
    RIBOSOME,
    TEST_SEED,
    VOXEL_ANGST,
    figures_of,
    micrographs_of,
    new_figure,
    numbers,
    part,
    pick,
    runs,
    simulated,
    train,
)

from deepem_scipion.deepem import Limits, read_coordinates
from deepem_scipion.deepem.evaluation import match, match_all, pool
from deepem_scipion.deepem.picking import Candidates, select
from deepem_scipion.deepem.picking.selection import MIN_DISTANCE, PICKED
from deepem_scipion.deepem.report.axes import BLUE, GREEN, ORANGE, VERMILION
from deepem_scipion.deepem.simulation import (
    contrast_transfer,
    project,
    random_orientations,
    read_volume,
)
from deepem_scipion.deepem.training import TRAINING_PRESETS

RESULTS = common.RESULTS / "studies"
NOISE_LEVELS = (NOISY, replace(NOISY, snr=0.005), replace(NOISY, snr=0.001), COARSE)
NOISY_PARTS = {"training": (16, 1), "test": (8, TEST_SEED)}
LARGER_PARTS = {**NOISY_PARTS, "training": (48, 1)}
LARGER = ("--maps", "12", "24", "24", "--epochs", "30")
# Pixel size of the matched filter, number of its in-plane angles, and number of test micrographs that it picks.
FILTER_PIXEL_ANGST, FILTER_ANGLES, FILTERED = 10.0, 48, 4


def snr(options):
    """Networks and matched filter at several noise levels: plot and table."""
    rows = [("pixel size A", "SNR", "d'", "picked by", "AP", "best F1", "P", "R", "training s")]
    figure, (axes,) = new_figure(6.2, 4.6)
    for scene, colour in zip(NOISE_LEVELS, (GREEN, BLUE, VERMILION, ORANGE), strict=True):
        name = f"snr/{scene.snr:g}-{scene.pixel_size_angst:g}A"
        folder = simulated(RESULTS / name, scene, NOISY_PARTS, options)
        label = f"SNR {scene.snr:g} at {scene.pixel_size_angst:g} A"
        bound = part(folder / "filter", {"scene": scene, "filter": (FILTER_PIXEL_ANGST, FILTER_ANGLES, FILTERED)},
                     options.fresh, filtered, scene, folder / "test", options)
        found = {}
        for preset, seed in runs(options):
            work = folder / f"{preset}-{seed}"
            found[f"{preset}, seed {seed}"] = part(
                work, {"scene": scene, "parts": NOISY_PARTS, "training_preset": TRAINING_PRESETS[preset]},
                options.fresh, trained_on_noise, work, folder, scene, preset, seed, options)
        for picker, figures in {**found, "matched filter": bound}.items():
            rows.append((f"{scene.pixel_size_angst:g}", f"{scene.snr:g}", f"{bound['d']:.1f}", picker,
                         *numbers(figures), f"{figures['seconds']:.0f}" if "seconds" in figures else ""))
            if "curve" in figures:
                style = "dashed" if figures is bound else "solid" if picker.startswith("default") else "dotted"
                axes.plot(figures["curve"]["recall"], figures["curve"]["precision"], color=colour, linestyle=style,
                          label=f"{label}, {picker} (AP {figures['AP']:.3f})")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=7, ncols=2, frameon=False)
    figure.savefig(RESULTS / "snr.png", dpi=100)
    return table(*rows)


def larger(options):
    """Noisy micrographs, with more of them and a larger network: table."""
    rows = [("training micrographs", "picked by", "AP", "best F1", "P", "R", "training s")]
    folder = simulated(RESULTS / "larger", NOISY, LARGER_PARTS, options)
    for preset, seed in runs(options):
        work = folder / f"{preset}-{seed}"
        settings = {"scene": NOISY, "parts": LARGER_PARTS, "training_preset": TRAINING_PRESETS[preset],
                    "options": LARGER}
        figures = part(work, settings, options.fresh, trained_on_noise, work, folder, NOISY, preset, seed, options,
                       LARGER)
        rows.append((LARGER_PARTS["training"][0], f"{preset}, seed {seed}, {' '.join(LARGER)}", *numbers(figures),
                     f"{figures['seconds']:.0f}"))
    return table(*rows)


def trained_on_noise(work, folder, scene, preset, seed, options, more=()):
    """Train on simulated micrographs, pick others and return the figures."""
    card, seconds = train(work, micrographs_of(folder / "training"), folder / "training" / "boxes",
                          scene.diameter_angst, preset, seed, [*more, *options.more])
    if card is None:
        return {"seconds": seconds}
    picks = pick(work, micrographs_of(folder / "test"), options.more)
    reference = read_coordinates(folder / "test" / "boxes")
    matches = match_all(reference, picks, DISTANCE * scene.diameter_px)
    return {**figures_of(pool(list(matches.values()))), "seconds": seconds, "geometry": card["geometry"],
            "working_pixel_size_angst": card["working_pixel_size_angst"]}


def filtered(scene, folder, options):
    """Pick simulated micrographs with a matched filter; figures, and the mean detectability index (`d`)."""
    rng = np.random.default_rng(TEST_SEED)
    orientations = random_orientations(N_VIEWS, rng)  # those of the simulated test micrographs
    views = project(read_volume(options.data / RIBOSOME, VOXEL_ANGST), orientations, scene.pixel_size_angst)
    reference = read_coordinates(folder / "boxes")
    matches, indices = [], []
    for path in micrographs_of(folder)[:FILTERED]:
        with mrcfile.open(path) as file:
            centres_xy, scores, index = matched_filter(scene, views, file.data)
        indices.append(index)
        matches.append(match(centres_xy, scores, reference[Path(path).stem].centres_xy, DISTANCE * scene.diameter_px))
    return {**figures_of(pool(matches)), "d": float(np.mean(indices))}


def matched_filter(scene, views, pixels):
    """Find particles by the likelihood ratio of the best view and angle, with known signal and noise.

    Parameters
    ----------
    scene : Scene
        Scene with white noise.
    views : (n, size, size) array
        Projections of the particle.
    pixels : (side, side) array
        Micrograph, with noise of standard deviation 1.

    Returns
    -------
    centres_xy : (m, 2) array
        Centres as x, y.
    scores : (m,) array
        Logarithms of the likelihood ratios.
    index : float
        Detectability index d': root mean square, over views and angles, of the norm of the signal divided by the
        standard deviation of the noise.
    """
    from scipy import fft, ndimage

    side, size = pixels.shape[0], views.shape[-1]
    grid = 2 * round(side * scene.pixel_size_angst / FILTER_PIXEL_ANGST / 2)
    middle = (size - 1) / 2
    row, column = fft.fftfreq(grid) * grid / side, fft.rfftfreq(grid) * grid / side  # cycles per pixel
    frequency = np.hypot(row[:, None], column[None]) / scene.pixel_size_angst
    transfer = np.where(frequency < 0.5 / FILTER_PIXEL_ANGST, contrast_transfer(frequency, scene), 0)
    transfer *= math.sqrt(scene.snr) / signal_std(scene, views)
    along = np.arange(size) - middle
    to_rows = np.exp(-2j * np.pi * row[:, None] * along).astype(np.complex64)
    to_columns = np.exp(-2j * np.pi * along[:, None] * column).astype(np.complex64)
    image = fft.rfft2(pixels.astype(np.float32))
    image = np.concatenate([image[:grid // 2, :grid // 2 + 1], image[-grid // 2:, :grid // 2 + 1]])
    image *= transfer.astype(np.float32) * (grid / side)**2
    weights = np.where(np.isin(np.arange(grid // 2 + 1), (0, grid // 2)), 1, 2)  # half the spectrum of a real image
    best, energies = np.full((grid, grid), -np.inf, np.float32), []
    for view in views:
        for angle in np.arange(FILTER_ANGLES) * 360 / FILTER_ANGLES:
            rotated = ndimage.rotate(view, angle, reshape=False).astype(np.float32)
            spectrum = to_rows @ rotated @ to_columns
            energies.append(float((np.square(np.abs(spectrum) * transfer) @ weights).sum()) / side**2)
            ratio = fft.irfft2(image * spectrum.conj(), s=(grid, grid))
            np.maximum(best, ratio - np.float32(energies[-1] / 2), out=best)
    peaks = np.argwhere(best == ndimage.maximum_filter(best, 5))
    centres_xy, scores = peaks[:, ::-1] * (side / grid), best[tuple(peaks.T)].astype(float)
    candidates = Candidates(centres_xy, scores, np.zeros(len(scores)), np.full(len(scores), np.inf))
    kept = select(candidates, Limits(-np.inf, MIN_DISTANCE * scene.diameter_px), 1.0) == PICKED
    return centres_xy[kept], scores[kept], math.sqrt(np.mean(energies))


def signal_std(scene, views):
    """Standard deviation of images of single particles within half a diameter of their centres."""
    from scipy import fft

    size = views.shape[-1]
    side = fft.next_fast_len(4 * size)
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None]) / scene.pixel_size_angst
    transfer = contrast_transfer(frequency, scene)
    corner = (side - size) // 2
    within = np.hypot(*(np.indices((side, side)) - corner - (size - 1) / 2)) <= scene.diameter_px / 2
    values = []
    for view in views:
        canvas = np.zeros((side, side))
        canvas[corner:corner + size, corner:corner + size] = view
        values.append(fft.irfft2(fft.rfft2(canvas) * transfer, s=canvas.shape)[within])
    return float(np.std(values))
