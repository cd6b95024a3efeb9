# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scores that take the other candidates of a micrograph into account."""

import numpy as np
import pytest

from deepem_scipion.deepem.picking.agreement import FEATURES, features, rescore
from deepem_scipion.deepem.training.agreement_fit import fit_agreement

DIAMETER = 20.0
CENTRES = np.array([[r, c] for r in (40, 80, 120) for c in (40, 80, 120, 160)], float)


@pytest.fixture(scope="module")
def spots():
    """Equal dark spots, of which the last three are faint."""
    pixels = np.zeros((160, 200), np.float32)
    rows, columns = np.indices(pixels.shape)
    for number, (row, column) in enumerate(CENTRES):
        depth = 1.0 if number < 9 else 0.25
        pixels -= depth * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 50).astype(np.float32)
    return pixels


def test_candidates_are_compared_with_the_most_confident_ones(spots):
    scores = np.append(np.full(9, 0.9), np.full(3, 0.4))
    found = features(spots, CENTRES, scores, np.ones(12), DIAMETER)
    assert found.shape == (12, len(FEATURES))
    column = dict(zip(FEATURES, found.T))
    np.testing.assert_allclose(column["contrast"], [1] * 9 + [0.25] * 3, atol=0.01)
    np.testing.assert_allclose(column["similarity"], 1, atol=0.01)
    np.testing.assert_allclose(column["score"], np.log(scores / (1 - scores)))
    np.testing.assert_allclose(column["confident_score"], np.log(9))
    np.testing.assert_allclose(column["local_std"], 0)
    np.testing.assert_allclose(column["candidate_share"], np.log10(12 * np.pi / 4 * 20**2 / (160 * 200) + 1e-4))
    np.testing.assert_allclose(column["distance"], 1.5)  # they are two diameters apart


def test_a_weaker_candidate_beside_a_better_one_is_known_by_its_distance(spots):
    centres, scores = np.array([[40.0, 40.0], [40.0, 52.0], [120.0, 120.0]]), np.array([0.9, 0.5, 0.6])
    found = features(spots, centres, scores, np.ones(3), DIAMETER)
    np.testing.assert_allclose(found[:, FEATURES.index("distance")], [1.5, 0.6, 1.5])


def test_the_negative_of_a_micrograph_has_the_same_values(spots):
    scores = np.linspace(0.2, 0.9, 12)
    np.testing.assert_allclose(features(-spots, CENTRES, scores, np.ones(12), DIAMETER),
                               features(spots, CENTRES, scores, np.ones(12), DIAMETER), rtol=1e-6)


def test_no_candidates_and_candidates_at_the_border_and_on_nothing(spots):
    assert features(spots, np.empty((0, 2)), np.empty(0), np.empty(0), DIAMETER).shape == (0, len(FEATURES))
    for pixels, centres in ((spots, np.array([[-3.0, 0.0], [159.4, 203.0]])), (0 * spots, CENTRES[:2])):
        assert np.isfinite(features(pixels, centres, np.array([0.9, 0.01]), np.array([1.0, 0.0]), DIAMETER)).all()


def test_a_fit_learns_what_a_score_alone_cannot_show():
    rng = np.random.default_rng(0)
    found = rng.standard_normal((2000, len(FEATURES)))
    correct = found[:, 1] > np.abs(found[:, 3])  # not linear, and without the score
    weights = fit_agreement(found[:1500], correct[:1500], rng)
    scores = rescore(weights, found[1500:], np.full(500, 0.5))
    assert ((scores > 0.5) == correct[1500:]).mean() > 0.95
    assert 0 <= scores.min() and scores.max() <= 1
    assert {name: value.dtype for name, value in weights.items()} == dict.fromkeys(weights, np.dtype(np.float32))


def test_scores_beyond_the_limits_of_the_features_keep_their_order():
    zeros = {"hidden.kernel": np.zeros((len(FEATURES), 2)), "hidden.bias": np.zeros(2), "output.kernel": np.zeros(2),
             "output.bias": np.zeros(1)}
    scores = np.array([0.02, 0.99, 0.995, 0.999])  # logits of -3.9, 4.6, 5.3 and 6.9; the limit is 5
    odds = scores / (1 - scores) / np.exp(5)
    np.testing.assert_allclose(rescore(zeros, np.zeros((4, len(FEATURES))), scores),
                               [0.5, 0.5, odds[2] / (1 + odds[2]), odds[3] / (1 + odds[3])])
