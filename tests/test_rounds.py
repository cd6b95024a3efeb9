# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recursive training: which mistakes are shown again, and when it ends."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.micrograph import Micrograph
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.model.record import TrainingRecord
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.picking.candidates import Candidates
from deepem_scipion.deepem.training import rounds as recursion
from deepem_scipion.deepem.training.labels import LabelledMicrograph
from deepem_scipion.deepem.training.plan import NetworkSetup, Plan
from deepem_scipion.deepem.training.rounds import MAX_ADDED, RoundTrainer, with_mistakes
from deepem_scipion.deepem.training.split import Split
from deepem_scipion.deepem.training.train import train_model
from deepem_scipion.deepem.training.training_set import TrainingSet

GEOMETRY = Geometry(20, (5, 3, 2), (2, 2, 2), (2, 3, 3))
SETUP = NetworkSetup(GEOMETRY, 4.0, 4)
MODEL = Model(GEOMETRY, ({},), 4.0, 64.0, 4, (0.0, 9.0), 0.5)
PARTICLES = [[20, 20], [20, 60], [60, 20], [60, 60]]


def micrograph(particles_rc=PARTICLES, **known):
    pixels = np.random.default_rng(0).normal(size=(100, 120)).astype(np.float32)
    return LabelledMicrograph(Micrograph(Path("m.mrc"), "m", pixels, 4.0, 1.0, pixels.shape),
                              np.array(particles_rc, float).reshape(-1, 2), **known)


def picker_of(picks):
    """A picker that finds these rows, columns and scores."""
    rows, cols, scores = np.array(sorted(picks, key=lambda pick: -pick[2]), float).reshape(-1, 3).T
    found = Candidates(np.column_stack([cols, rows]), scores, np.ones(len(rows)), np.full(len(rows), 20.0))
    return SimpleNamespace(model=MODEL, pick=lambda micrograph: SimpleNamespace(picks=found))


def test_particles_without_a_pick_are_missed_and_picks_without_a_particle_are_false_positives():
    taught = with_mistakes(picker_of([(21, 19, 0.9), (20, 61, 0.8), (60, 22, 0.3), (85, 90, 0.7)]), micrograph(), 0.0)
    np.testing.assert_array_equal(taught.missed_rc, [[60, 20], [60, 60]])  # 0.3 is below the threshold
    np.testing.assert_allclose(taught.negatives_rc, [[85, 90]])
    assert len(taught.doubtful_rc) == 0


def test_false_positive_that_is_more_confident_than_most_true_ones_is_doubtful():
    true = [(20, 20, 0.6), (20, 60, 0.7), (60, 20, 0.8), (60, 60, 0.9)]
    taught = with_mistakes(picker_of([*true, (85, 90, 0.95), (40, 100, 0.74)]), micrograph(), 0.0)
    np.testing.assert_allclose(taught.doubtful_rc, [[85, 90]])
    np.testing.assert_allclose(taught.negatives_rc, [[40, 100]])


def test_places_that_are_doubtful_already_stay_doubtful():
    before = micrograph(doubtful_rc=np.array([[85.0, 90.0], [40.0, 100.0]]))
    taught = with_mistakes(picker_of([(20, 20, 0.7), (85, 91, 0.6), (86, 20, 0.9)]), before, 0.0)
    np.testing.assert_allclose(taught.doubtful_rc, [[85, 90], [40, 100], [86, 20]])
    assert len(taught.negatives_rc) == 0


def test_picks_in_the_border_without_annotation_or_close_to_a_particle_are_no_false_positives():
    taught = with_mistakes(picker_of([(20, 20, 0.9), (5, 50, 0.6), (20, 66, 0.6)]), micrograph(), 10.0)
    assert len(taught.negatives_rc) == len(taught.doubtful_rc) == 0


def test_false_positives_are_ignored_where_not_all_particles_are_marked():
    taught = with_mistakes(picker_of([(20, 20, 0.9), (85, 90, 0.7)]), micrograph(complete=False), 0.0)
    assert len(taught.negatives_rc) == len(taught.doubtful_rc) == 0 and len(taught.missed_rc) == 3


def test_false_positives_are_limited_to_a_share_of_the_particles_the_most_confident_first():
    false = [(90, 15 + 20 * number, 0.6 + 0.01 * number) for number in range(5)]
    taught = with_mistakes(picker_of([(20, 20, 0.9), *false]), micrograph(), 0.0)
    assert len(taught.negatives_rc) == round(MAX_ADDED * len(PARTICLES)) == 2
    np.testing.assert_allclose(taught.negatives_rc[:, 1], [95, 75])


def test_given_negatives_stay_and_an_empty_micrograph_changes_nothing():
    given = np.array([[40.0, 40.0]])
    taught = with_mistakes(picker_of([(20, 20, 0.9), (85, 90, 0.7)]), micrograph(negatives_rc=given), 0.0)
    np.testing.assert_allclose(taught.negatives_rc, [[40, 40], [85, 90]])
    taught = with_mistakes(picker_of([]), micrograph(), 0.0)
    assert len(taught.missed_rc) == len(PARTICLES)


class Rounds:
    """Stands in for training and validation: rounds have the given errors."""

    def __init__(self, monkeypatch, errors):
        self.starts, self.taught, errors = [], [], iter(errors)

        def fit(trainer, number, index, part, start):
            self.starts.append(start)
            self.taught.append(len(part.training[0].negatives_rc))
            weights = {"round": np.full(1, float(number))}
            return SimpleNamespace(weights=weights, seed=0, best_epoch=1, history=[{"round": number, "network": index}])

        def validated(model, labelled, border_px, kept_out):
            error = next(errors)
            found = replace(model.record.validation, best_F1=None if error is None else 1 - error, AP=0.5)
            return replace(model, threshold=0.5, record=replace(model.record, validation=found))

        monkeypatch.setattr(RoundTrainer, "_fit", fit)
        monkeypatch.setattr(recursion, "with_threshold", validated)
        monkeypatch.setattr(recursion, "Picker", lambda model, settings: picker_of([(20, 20, 0.9), (85, 90, 0.7)]))

    def train(self, rounds, cutoff=0.0):
        splits = [Split([micrograph()], [micrograph()])] * 2
        plan = Plan(64.0, networks=2, rounds=rounds, error_cutoff=cutoff)
        return RoundTrainer(plan, SETUP, (0.0, 9.0), 0.0, TrainingRecord(), print).train(splits)


def test_rounds_continue_as_long_as_the_error_falls_and_the_last_better_one_is_kept(monkeypatch):
    rounds = Rounds(monkeypatch, [0.3, 0.2, 0.25, 0.1])
    model = rounds.train(9)
    assert [entry.error for entry in model.record.rounds] == pytest.approx([0.3, 0.2, 0.25])
    assert [entry.kept for entry in model.record.rounds] == [True, True, False]
    assert [weights["round"][0] for weights in model.networks] == [2, 2]
    assert len(model.record.history) == 6  # of all rounds, also the discarded one
    assert [start and start["round"][0] for start in rounds.starts] == [None, None, 1, 1, 2, 2]


def test_mistakes_of_a_round_are_shown_in_the_next_one(monkeypatch):
    rounds = Rounds(monkeypatch, [0.3, 0.2])
    model = rounds.train(2)
    assert rounds.taught == [0, 0, 1, 1]
    second = model.record.rounds[1]
    assert (second.false_positives, second.missed) == (1, 3)  # both networks are trained on the same micrograph


@pytest.mark.parametrize(("errors", "cutoff"), [([0.04], 0.05), ([None], 0.05), ([0.3, 0.04], 0.05),
                                              ([0.3, None], 0.05)])
def test_no_further_round_below_the_cutoff_or_with_an_unknown_error(monkeypatch, errors, cutoff):
    assert len(Rounds(monkeypatch, errors).train(5, cutoff).record.rounds) == len(errors)


def test_later_round_that_fails_leaves_the_networks_of_the_last_one(monkeypatch, caplog):
    rounds = Rounds(monkeypatch, [0.3, 0.2])
    fit = RoundTrainer._fit

    def fail_in_the_third(trainer, number, *rest):
        if number == 3:
            raise DeepEMError("did not converge")
        return fit(trainer, number, *rest)

    monkeypatch.setattr(RoundTrainer, "_fit", fail_in_the_third)
    model = rounds.train(5)
    assert [weights["round"][0] for weights in model.networks] == [2, 2] and len(model.record.rounds) == 2
    assert "round 3 failed" in caplog.text


def test_rounds_without_validation_are_refused(blobs):
    folder, _ = blobs
    with pytest.raises(DeepEMError, match="validation"):
        train_model(TrainingSet({"a": folder / "micrographs" / "a.mrc"}, read_coordinates(folder / "boxes")),
                    Plan(64.0, rounds=2, validation_fraction=0.0))


@pytest.mark.slow
def test_training_in_rounds_finds_blobs_and_records_each_round(blobs):
    folder, _ = blobs
    reported = []
    model = train_model(TrainingSet({name: folder / "micrographs" / f"{name}.mrc" for name in "abc"},
                                    read_coordinates(folder / "boxes")),
                        Plan(64.0, epochs=2, networks=2, rounds=2, error_cutoff=0.0), progress=reported.append)
    rounds = model.record.rounds
    assert len(model.networks) == 2 and len(rounds) == 2
    assert rounds[0].error < 0.2
    assert model.record.validation.best_F1 == max(entry.best_F1 for entry in rounds)
    assert [(record["round"], record["network"], record["epoch"]) for record in reported] == [
        (1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (2, 1, 1), (2, 2, 1)]
    assert model.record.history == reported
