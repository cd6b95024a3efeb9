# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model files and the objects that describe them in a project."""

import json
import shutil

from .. import program
from ..deepem.atomic import atomic_path
from ..deepem.model.card import MODEL_LABELS
from ..objects import DeepEMModel


def general_model(diameter_angst, contrast):
    """Model object for the general model of the package and a particle.

    Parameters
    ----------
    diameter_angst : float
        Particle diameter in angstrom.
    contrast : {"dark", "bright"}

    Returns
    -------
    DeepEMModel
    """
    from ..deepem.model import general

    return model_of_card(str(general.GENERAL_MODEL), general.general_model(diameter_angst, contrast).card())


def copy_model(source, target):
    """Copy a model file atomically; the copy keeps the modification time, which is the day of the training."""
    with atomic_path(target) as aside:
        shutil.copy2(source, aside)


def read_model(path):
    """Model object for a file.

    Parameters
    ----------
    path : str

    Returns
    -------
    DeepEMModel

    Raises
    ------
    RuntimeError
        If the program cannot read the file; with its message.
    """
    return model_of_card(path, read_card(path))


def read_card(path):
    """Card of the model in a file, read and checked by the program.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict

    Raises
    ------
    RuntimeError
        If the program cannot read the file; with its message.
    """
    done = program.run("info", path, "--json")
    if done.status:
        raise RuntimeError(f"{path} cannot be read as a DeepEM model: {done.error}")
    return json.loads(done.output)


def model_of_card(path, card):
    """Model object for a file with a known card.

    Parameters
    ----------
    path : str
    card : dict

    Returns
    -------
    DeepEMModel

    Raises
    ------
    RuntimeError
        If the card lacks what a training writes.
    """
    try:
        return _model_of_card(path, card)
    except KeyError as error:
        raise RuntimeError(f"{path} cannot be used: its card does not state {error.args[0]}. Use a model written by "
                           "deepem train, deepem tune or a training protocol.") from error


def _model_of_card(path, card):
    model = DeepEMModel(path)
    model._diameter.set(card["diameter_angst"])
    model._workingSamplingRate.set(card["working_pixel_size_angst"])
    model._boxSize.set(card["geometry"]["box"])
    model._scanStep.set(card["scan_step"])
    model._threshold.set(card["threshold"])
    # The general model was trained on simulated micrographs at its working pixel size, whatever that is.
    simulated = card["working_pixel_size_angst"] if card.get("origin") else None
    model._samplingRate.set(simulated or card["training_pixel_size_angst"])
    training, validation = card["training"], card["validation"]
    names = {*training["names"], *validation.get("names", ())}
    networks = card.get("networks", 1)
    model._numberOfMicrographs.set(len(names))
    # With several networks the validation particles of one are training particles of another.
    model._numberOfParticles.set(training["particles"] + (0 if networks > 1 and names == set(training["names"])
                                                          else validation["particles"]))
    model._numberOfNetworks.set(networks)
    model._numberOfRounds.set(sum(done["kept"] for done in card.get("rounds", ())))
    model._numberOfTrials.set(card.get("tuning", {}).get("complete", 0))
    model._warnings.set("\n".join(card.get("warnings", ())))
    # A training in which nothing was picked has no figures; those on labels of a model are no validation.
    if MODEL_LABELS in validation.get("on", ""):
        validation = {}
    model._precision.set(validation.get("precision"))
    model._recall.set(validation.get("recall"))
    model._fScore.set(validation.get("F1"))
    model._averagePrecision.set(validation.get("AP"))
    return model
