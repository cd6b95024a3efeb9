# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""DeepEM: the method, on arrays and files, without Scipion.

The folders are in the order of the data: `micrographs`, `coordinates`, `evaluation`, `network`, `model`, `picking`,
`training`, `simulation`, `report`, `commands`. Each imports only those before it.
"""

from .lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "errors": ["DeepEMError"],
    "micrographs.find": ["find_micrographs"],
    "micrographs.micrograph": ["Micrograph", "read_micrograph"],
    "coordinates.coordinates": ["Coordinates"],
    "coordinates.read": ["read_coordinates"],
    "evaluation.metrics": ["evaluate"],
    "model.model": ["Model"],
    "model.files": ["load_model", "save_model"],
    "model.general": ["general_model"],
    "picking.message": ["pick_message"],
    "picking.picker": ["Picker"],
    "picking.results": ["PickingResults"],
    "picking.run": ["pick_micrographs"],
    "picking.selection": ["Limits"],
    "training.plan": ["Plan"],
    "training.train": ["train_model"],
    "training.training_set": ["TrainingSet"],
})
