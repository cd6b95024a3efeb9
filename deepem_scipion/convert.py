# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Between Scipion's sets and the files of the `deepem` program."""

import json
import os
import re
import shutil
import subprocess

import numpy as np
import pyworkflow.utils as pwutils
from pwem.objects import Coordinate
from pyworkflow.object import Float, Integer

from .constants import PROGRAM_MODULE
from .deepem.atomic import atomic_path, atomic_write
from .deepem.coordinates.box import write_box
from .deepem.coordinates.coordinates import Coordinates
from .deepem.coordinates.read import read_coordinates
from .deepem.coordinates.suppression import non_maximum_suppression
from .deepem.errors import DeepEMError
from .deepem.micrographs.micrograph import read_shape
from .objects import DeepEMModel
from .plugin import Plugin

# Where coordinates keep their score: those of this plugin, of RELION, crYOLO and Topaz.
SCORE_ATTRIBUTES = ("_deepemScore", "_rlnAutopickFigureOfMerit", "_cryoloScore", "_topazScore")

# These would break the line of a list file.
_BREAKING = r"\x00-\x1f\x7f\x85\u2028\u2029"
# These, too, or leave the folder of the results.
_NOT_IN_NAMES = re.compile(rf"[{_BREAKING}/\\]")


def result_names(micrographs):
    """Name of the result files of each micrograph.

    It is the micrograph's name without the extension. Where two would get the same, the later one gets its
    number as well, so that names do not change when more micrographs arrive.

    Parameters
    ----------
    micrographs : iterable of Micrograph

    Returns
    -------
    dict
        Micrograph id to name.
    """
    names, taken = {}, set()
    for mic in sorted(micrographs, key=lambda mic: mic.getObjId()):
        name = mic.getMicName() or os.path.basename(mic.getFileName())
        extension = os.path.splitext(mic.getFileName())[1]
        if extension and name.endswith(extension):
            name = name[: -len(extension)]
        name = _NOT_IN_NAMES.sub("_", name).strip() or "micrograph"
        while name in taken:
            name = f"{name}_{mic.getObjId():06d}"
        taken.add(name)
        names[mic.getObjId()] = name
    return names


def write_micrograph_list(path, micrographs, names):
    """Write a list file: path, TAB, name of the results.

    A path that cannot stand in a list is replaced by that of a link beside the list file.

    Parameters
    ----------
    path : str
        File to write.
    micrographs : iterable of Micrograph
    names : dict
        Micrograph id to name, see `result_names`.
    """
    pwutils.makeFilePath(path)
    with atomic_write(path) as file:
        for mic in micrographs:
            file.write(f"{_listable_path(mic, os.path.dirname(path))}\t{names[mic.getObjId()]}\n")


def _listable_path(mic, folder):
    path = mic.getFileName()
    if path == path.strip() and not re.search(f"[{_BREAKING}]", path):
        return path
    link = os.path.join(folder, f"mic_{mic.getObjId():06d}{os.path.splitext(path)[1].strip()}")
    pwutils.createAbsLink(os.path.abspath(path), link)
    return link


def micrographs_with_coordinates(coordinates):
    """Copies of the micrographs that have coordinates, by name.

    Parameters
    ----------
    coordinates : SetOfCoordinates

    Returns
    -------
    dict
        Name of the micrograph in Scipion to Micrograph, in the order of their ids.
    """
    present = set(coordinates.getUniqueValues("_micId")) if coordinates.getSize() else set()
    # Copies, because reading the coordinates moves the cursor of the micrographs' set.
    return {mic.getMicName(): mic.clone() for mic in coordinates.getMicrographs() if mic.getObjId() in present}


def write_boxes(folder, coordinates, names, pixel_size_angst):
    """Write one .box file per micrograph.

    Parameters
    ----------
    folder : str
        Made anew.
    coordinates : SetOfCoordinates
    names : dict
        Name of the micrograph in Scipion to name of its file. Coordinates of other micrographs are left out.
    pixel_size_angst : float
        Pixel size of the micrographs that the files are for.

    Returns
    -------
    int
        Number of coordinates written.
    """
    pwutils.cleanPath(folder)
    pwutils.makePath(folder)
    scale = coordinates.getMicrographs().getSamplingRate() / pixel_size_angst
    box_px = scale * (coordinates.getBoxSize() or 1)
    written = 0
    for mic_name, mic in micrographs_with_coordinates(coordinates).items():
        if mic_name not in names:
            continue
        centres_xy = scale * np.array([c.getPosition() for c in coordinates.iterCoordinates(mic)], float)
        write_box(os.path.join(folder, names[mic_name] + ".box"), centres_xy, np.full(len(centres_xy), np.nan), box_px)
        written += len(centres_xy)
    return written


def score_attribute(coordinates):
    """Name of the attribute that holds the scores of a SetOfCoordinates; None where no coordinate has one."""
    first = coordinates.getFirstItem() if coordinates.getSize() else None
    for name in SCORE_ATTRIBUTES:
        if first is not None and first.hasAttribute(name) and set(coordinates.getUniqueValues(name)) != {None}:
            return name
    return None


def score_of(item, attribute):
    """Score of a Coordinate as a file tells it.

    Parameters
    ----------
    item : Coordinate
    attribute : str or None
        See `score_attribute`.

    Returns
    -------
    float
        With the six digits that .box files have, so that a threshold from a file parts the coordinates as it
        does the file's lines. 1 without attribute; 0 where this one coordinate lacks a score.
    """
    if attribute is None:
        return 1.0
    score = getattr(item, attribute).get()
    return 0.0 if score is None or np.isnan(score) else float(f"{score:.6g}")


def coordinates_by_name(coordinates):
    """Centres and scores of all coordinates in a set.

    Parameters
    ----------
    coordinates : SetOfCoordinates

    Returns
    -------
    dict
        Name of the micrograph in Scipion to Coordinates, for every micrograph of the set, also those without any.
    int
        Number of coordinates that cannot be used: no position, or a micrograph that is not in the set.
    """
    names = {mic.getObjId(): mic.getMicName() for mic in coordinates.getMicrographs()}
    attribute = score_attribute(coordinates)
    rows, unusable = {name: [] for name in names.values() if name is not None}, 0
    for item in coordinates.iterItems():
        name, position = names.get(item.getMicId()), item.getPosition()
        if name is None or None in position:
            unusable += 1
        else:
            rows[name].append((*position, score_of(item, attribute)))
    tables = {name: np.array(found, float).reshape(-1, 3) for name, found in rows.items()}
    return {name: Coordinates(table[:, :2], table[:, 2], coordinates.getBoxSize())
            for name, table in tables.items()}, unusable


def too_near(coordinates, min_distance_px):
    """Ids of the coordinates in a set that are nearer than a distance to one with a higher score.

    Parameters
    ----------
    coordinates : SetOfCoordinates
    min_distance_px : float
        In pixels of the coordinates; 0: none is too near.

    Returns
    -------
    set of int
        Those that are left out if of neighbours only the best is kept, see `picking.non_maximum_suppression`.
    """
    if min_distance_px <= 0:
        return set()
    attribute, rows = score_attribute(coordinates), {}
    for item in coordinates.iterItems():
        if None not in item.getPosition():
            rows.setdefault(item.getMicId(), []).append((item.getObjId(), *item.getPosition(),
                                                         score_of(item, attribute)))
    found = set()
    for table in (np.array(each, float) for each in rows.values()):
        found |= set(table[~non_maximum_suppression(table[:, 1:3], table[:, 3], min_distance_px), 0].astype(int).tolist())
    return found


def write_scored_boxes(folder, found, names, scale):
    """Write one .box file with scores per micrograph, an empty one where there are no coordinates.

    Parameters
    ----------
    folder : str
        Made anew.
    found : dict
        Name of the micrograph in Scipion to Coordinates.
    names : dict
        Name of the micrograph in Scipion to name of its file; of these micrographs files are written.
    scale : float
        Pixels of the files per pixel of the coordinates.
    """
    pwutils.cleanPath(folder)
    pwutils.makePath(folder)
    for mic_name, name in names.items():
        each = found[mic_name]
        # Even, because with corners in whole pixels the centre of an odd box is off by half a pixel.
        box_px = 2 * max(1, round(scale * (each.box_px or 2) / 2))
        write_box(os.path.join(folder, name + ".box"), scale * each.centres_xy, each.scores, box_px)


def read_picks(path, mic):
    """Coordinates of one micrograph from the file that the program wrote.

    Positions are rounded, because Scipion cuts off decimals, and lie inside the micrograph. The three
    attributes named after RELION's labels carry the score into RELION's extraction, which wants all or none.

    Parameters
    ----------
    path : str
        A .box file.
    mic : Micrograph

    Returns
    -------
    list of Coordinate
    """
    try:
        rows, cols = read_shape(mic.getFileName())
    except DeepEMError:  # it was moved away meanwhile, and the picks are as good as before
        rows = cols = np.inf
    items = []
    for picks in read_coordinates(path).values():
        centres_xy = np.clip(np.rint(picks.centres_xy), 0, (cols - 1, rows - 1)).astype(int)
        for (x, y), score in zip(centres_xy.tolist(), picks.scores.tolist()):
            item = Coordinate(x=x, y=y)
            item.setMicrograph(mic)
            item._deepemScore = Float(score)
            item._rlnAutopickFigureOfMerit = Float(score)
            item._rlnClassNumber = Integer(1)
            item._rlnAnglePsi = Float(0.0)
            items.append(item)
    return items


def read_json(path):
    """Content of a JSON file; an empty dict where there is no such file."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_json(path, content):
    """Write a JSON file, as a whole or not at all."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=1)


def copy_model(source, target):
    """Copy a model file, as a whole or not at all; the copy keeps the day on which the model was made."""
    with atomic_path(target) as aside:
        shutil.copy2(source, aside)


def read_model(path):
    """Model of a file, described by its card.

    Parameters
    ----------
    path : str

    Returns
    -------
    DeepEMModel

    Raises
    ------
    RuntimeError
        Where the program cannot read the file; with its message.
    """
    return model_of_card(path, read_card(path))


def read_card(path):
    """What the program tells of the model in a file, as a dict; raises RuntimeError as `read_model` does."""
    done = subprocess.run([Plugin.getPython(), "-m", PROGRAM_MODULE, "info", path, "--json"],
                          env=Plugin.getEnviron(), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = re.sub(r"^.*?error: ", "", done.stderr.strip())
        raise RuntimeError(f"{path} cannot be read as a DeepEM model: {reason}")
    return json.loads(done.stdout)


def model_of_card(path, card):
    """The object for a model file; raises RuntimeError where the card does not say what a training writes."""
    try:
        return _model_of_card(path, card)
    except KeyError as error:
        raise RuntimeError(f"{path} cannot be used: its card does not tell {error.args[0]}. Take a model that was "
                           "written by deepem train, deepem tune or a training protocol.") from error


def _model_of_card(path, card):
    model = DeepEMModel(path)
    model._diameter.set(card["diameter_angst"])
    model._workingSamplingRate.set(card["working_pixel_size_angst"])
    model._boxSize.set(card["geometry"]["box"])
    model._scanStep.set(card["scan_step"])
    model._threshold.set(card["threshold"])
    model._samplingRate.set(card["training_pixel_size_angst"])
    training, validation = card["training"], card["validation"]
    names = {*training["names"], *validation.get("names", ())}
    networks = card.get("networks", 1)
    model._numberOfMicrographs.set(len(names))
    # With several networks what one is judged by another one is trained on.
    model._numberOfParticles.set(training["particles"] + (0 if networks > 1 and names == set(training["names"])
                                                          else validation["particles"]))
    model._numberOfNetworks.set(networks)
    model._numberOfRounds.set(sum(done["kept"] for done in card.get("rounds", ())))
    model._numberOfTrials.set(card.get("tuning", {}).get("complete", 0))
    # Figures are missing where nothing could be kept for validation.
    model._precision.set(validation.get("precision"))
    model._recall.set(validation.get("recall"))
    model._fScore.set(validation.get("F1"))
    model._averagePrecision.set(validation.get("AP"))
    return model
