# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conversion between objects of Scipion and files of the `deepem` program."""

from .coordinates import (
    coordinates_by_name,
    read_picks,
    score_attribute,
    score_of,
    suppressed_ids,
    write_boxes,
    write_scored_boxes,
)
from .formats import coordinate_items, is_scored, picks_of_set
from .identity import keys_by_id
from .json_files import read_json, write_json
from .micrographs import (
    are_tiff,
    frame_warnings,
    micrographs_with_coordinates,
    result_names,
    with_unique_names,
    write_micrograph_list,
)
from .models import copy_model, general_model, model_of_card, read_card, read_model

__all__ = [
    "are_tiff",
    "coordinate_items",
    "coordinates_by_name",
    "copy_model",
    "frame_warnings",
    "general_model",
    "is_scored",
    "keys_by_id",
    "micrographs_with_coordinates",
    "model_of_card",
    "picks_of_set",
    "read_card",
    "read_json",
    "read_model",
    "read_picks",
    "result_names",
    "score_attribute",
    "score_of",
    "suppressed_ids",
    "with_unique_names",
    "write_boxes",
    "write_json",
    "write_micrograph_list",
    "write_scored_boxes",
]
