# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A page for a browser in one file: figures, charts, pictures and tables, all of them within.

The page holds no script and its browser is told to fetch nothing. Every text is escaped by the template.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import __version__
from ..atomic import atomic_write
from ..errors import DeepEMError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("template.html.j2")
# A table of so many rows has about 200 kB.
MAX_ROWS = 1000
# Tables with more rows than these are folded.
MAX_OPEN_ROWS = 25
CHART_SIZE_IN = (5.0, 3.6)
THUMBNAIL_PX = 720
JPEG_QUALITY = 75
CIRCLE_WIDTH = 2.2  # points, of 10 pixels to 7
# So many micrographs of a kind are shown.
SHOWN = 3
TIME_FORM = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class Chart:
    """A diagram: address of its image, a text in its place, and what to write below."""

    source: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A micrograph: address of its image (empty where there is none), a text in its place, and its caption."""

    id: str
    name: str
    caption: str
    source: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is the row's heading. Long ones are folded."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def folded(self) -> bool:
        """Whether the reader has to open it."""
        return len(self.rows) > MAX_OPEN_ROWS

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds numbers only."""
        columns = zip(*self.rows) if self.head else ()
        return [bool(at) and all(_is_number(cell) for cell in column) for at, column in enumerate(columns)] or (
            [False] * max(map(len, [self.head, *self.rows])))


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; pictures are in groups with a heading each."""

    title: str
    text: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    tables: Sequence[Table] = ()


def write_page(path: str | Path, title: str, subject: str, figures: Mapping[str, str], sections: Sequence[Section],
               warnings: Sequence[str] = ()) -> None:
    """Write a page.

    Parameters
    ----------
    path : file to write, as a whole or not at all
    title, subject : what the page is, and what it is about
    figures : the most important figures by name, shown large
    sections : in their order
    warnings : shown before everything else

    Raises
    ------
    DeepEMError
        Where the file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    text = templates.get_template(TEMPLATE.name).render(
        title=title, subject=subject, figures=figures, sections=sections, warnings=warnings, version=__version__,
        made=time.strftime(TIME_FORM))
    with atomic_write(path, "wb") as handle:
        handle.write(text.encode("utf-8", "backslashreplace"))  # names of files need not be valid UTF-8


def rows_at_most(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], elsewhere: str) -> Table:
    """A table of at most `MAX_ROWS` rows, which says how many there are and where the others can be found."""
    cut = f"; the first {MAX_ROWS} are shown, all are in {elsewhere}" if len(rows) > MAX_ROWS else ""
    return Table(f"{caption} ({len(rows)}{cut})", head, rows[:MAX_ROWS])


def charts_of(figure: Figure, alts: Sequence[str], captions: Sequence[str] = ()) -> list[Chart]:
    """Each panel of a figure as a chart of its own, large enough to be read on a telephone."""
    from matplotlib.gridspec import GridSpec

    figure.set_size_inches(CHART_SIZE_IN)
    charts = []
    for axes, alt, caption in zip(figure.axes, alts, captions or [""] * len(alts), strict=True):
        for other in figure.axes:
            other.set_visible(other is axes)
        axes.set_subplotspec(GridSpec(1, 1, figure)[0])
        file = io.BytesIO()
        figure.savefig(file, format="svg", dpi=200, transparent=True,
                       metadata={"Date": None})  # the dots are for what is rasterized
        charts.append(Chart(_address("svg+xml", file), alt, caption))
    return charts


def chosen(quality: Mapping[str, float]) -> dict[str, list[str]]:
    """Names of the best, typical and worst micrographs, `SHOWN` of each; of few micrographs all, the best first."""
    order = sorted(quality, key=lambda name: (-quality[name], name))
    if len(order) <= 3 * SHOWN:
        return {"All, the best first": order} if order else {}
    middle = (len(order) - SHOWN) // 2
    return {"Best": order[:SHOWN], "Typical": order[middle:middle + SHOWN], "Worst": order[:-SHOWN - 1:-1]}


def pictures_of(quality: Mapping[str, float], draw: Callable[[str], str],
                describe: Callable[[str], str]) -> dict[str, list[Picture]]:
    """The best, typical and worst micrographs; one that cannot be drawn says why.

    Parameters
    ----------
    quality : name -> the more, the better
    draw : name -> address of an image; DeepEMError where it cannot be drawn
    describe : name -> text
    """
    def picture(number: int, name: str) -> Picture:
        caption = describe(name)
        try:
            return Picture(f"picture-{number}", name, caption, draw(name), f"Micrograph {name} with circles: {caption}")
        except DeepEMError as error:
            return Picture(f"picture-{number}", name, f"{caption}; not shown: {error}")

    groups = chosen(quality)
    numbers = iter(range(1, 1 + 3 * SHOWN))
    return {group: [picture(next(numbers), name) for name in names] for group, names in groups.items()}


def thumbnail(pixels: np.ndarray, diameter_px: float, circles: Sequence[tuple[np.ndarray, dict[str, Any]]],
              region: Sequence[float] | None = None) -> str:
    """Address of a small image of a micrograph.

    Parameters
    ----------
    pixels : (rows, columns)
    diameter_px : of the particles and of the circles
    circles : for each group of circles the (n, 2) centres as x, y and their style
    region : x0, y0, x1, y1 of a frame
    """
    from matplotlib.figure import Figure

    from .plots import SKY, _circles, show_micrograph

    dots = 100
    height, width = (round(THUMBNAIL_PX * length / max(pixels.shape)) for length in pixels.shape)
    figure = Figure(figsize=((width + 0.5) / dots, (height + 0.5) / dots))  # broken pixels are left out
    axes = figure.add_axes((0, 0, 1, 1))
    show_micrograph(axes, pixels, diameter_px)
    for centres_xy, style in circles:
        _circles(axes, centres_xy, diameter_px, **style).set_linewidth(CIRCLE_WIDTH)
    if region is not None:
        x0, y0, x1, y1 = region
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=SKY, linewidth=CIRCLE_WIDTH)
    axes.set_axis_off()
    file = io.BytesIO()
    # Colours in full: thin lines would lose them.
    figure.savefig(file, format="jpeg", dpi=dots, pil_kwargs={"quality": JPEG_QUALITY, "subsampling": 0,
                                                              "optimize": True})
    return _address("jpeg", file)


def _address(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("", "-")
    return True
