# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTML page in one file: figures, charts, pictures and tables.

The page has no script, and its content security policy lets the browser fetch nothing. The template escapes all text.
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
from ..coordinates.regions import Region
from ..errors import DeepEMError
from .axes import SKY, draw_circles, draw_region, show_micrograph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("template.html.j2")
# Rows of a table at most; it then has about 200 kB.
MAX_ROWS = 1000
# Tables with more rows than this are folded.
MAX_OPEN_ROWS = 25
CHART_SIZE_IN = (5.0, 3.6)
THUMBNAIL_PX = 720
JPEG_QUALITY = 75
CIRCLE_WIDTH = 2.2  # points, of 10 pixels to 7
# Number of best, of typical and of worst micrographs.
N_SHOWN = 3
TIME_FORMAT = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class Chart:
    """A diagram.

    Attributes
    ----------
    source : str
        Data URL of the image.
    alt : str
        Description of the image.
    caption : str
        Text below it.
    """

    source: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A micrograph.

    Attributes
    ----------
    id : str
        Name of its anchor.
    name : str
        Name of the micrograph.
    caption : str
        Text below it.
    source : str
        Data URL of the image; empty if there is none.
    alt : str
        Description of the image.
    """

    id: str
    name: str
    caption: str
    source: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Table:
    """A table; long ones are folded.

    Attributes
    ----------
    caption : str
    head : sequence of str
        Headings of the columns; may be empty.
    rows : sequence of sequence of str
        The first cell of each row is its heading.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def folded(self) -> bool:
        """Whether the reader has to open it."""
        return len(self.rows) > MAX_OPEN_ROWS

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it has numbers only."""
        columns = zip(*self.rows) if self.head else ()
        return [bool(at) and all(_is_number(cell) for cell in column) for at, column in enumerate(columns)] or (
            [False] * max(map(len, [self.head, *self.rows])))


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes
    ----------
    title : str
    text : sequence of str
        Paragraphs.
    charts : sequence of Chart
    pictures : mapping of str to sequence of Picture
        By the heading of their group.
    tables : sequence of Table
    """

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
    path : str or Path
        File to write, atomically.
    title, subject : str
        Heading, and the line below it.
    figures : mapping of str to str
        The most important figures by name, shown large.
    sections : sequence of Section
    warnings : sequence of str
        Shown first.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    text = templates.get_template(TEMPLATE.name).render(
        title=title, subject=subject, figures=figures, sections=sections, warnings=warnings, version=__version__,
        written=time.strftime(TIME_FORMAT))
    with atomic_write(path, "wb") as handle:
        handle.write(text.encode("utf-8", "backslashreplace"))  # file names need not be valid UTF-8


def format_number(value: float | None, form: str = ".3f") -> str:
    """Format a number with a few digits.

    Parameters
    ----------
    value : float or int, optional
    form : str
        Format of floating-point numbers.

    Returns
    -------
    str
        A dash for None.
    """
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:{form}}"


def limited_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], source: str) -> Table:
    """Make a table of at most `MAX_ROWS` rows, whose caption states their number and where all of them are.

    Parameters
    ----------
    caption, head, rows
        As for `Table`.
    source : str
        File that has all rows.

    Returns
    -------
    Table
    """
    cut = f"; the first {MAX_ROWS} are shown, all are in {source}" if len(rows) > MAX_ROWS else ""
    return Table(f"{caption} ({len(rows)}{cut})", head, rows[:MAX_ROWS])


def make_charts(figure: Figure, alts: Sequence[str], captions: Sequence[str] = ()) -> list[Chart]:
    """Make a chart of each panel of a figure, large enough for a phone.

    Parameters
    ----------
    figure : Figure
        It is changed.
    alts : sequence of str
        Description of each panel.
    captions : sequence of str
        Text below each of them, if any.

    Returns
    -------
    list of Chart
    """
    from matplotlib.gridspec import GridSpec

    figure.set_size_inches(CHART_SIZE_IN)
    charts = []
    for axes, alt, caption in zip(figure.axes, alts, captions or [""] * len(alts), strict=True):
        for other in figure.axes:
            other.set_visible(other is axes)
        axes.set_subplotspec(GridSpec(1, 1, figure)[0])
        file = io.BytesIO()
        figure.savefig(file, format="svg", dpi=200, transparent=True,
                       metadata={"Date": None})  # dpi is for what is rasterized
        charts.append(Chart(_data_url("svg+xml", file), alt, caption))
    return charts


def choose_micrographs(quality: Mapping[str, float]) -> dict[str, list[str]]:
    """Choose the best, typical and worst micrographs, `N_SHOWN` of each, or all if there are few.

    Parameters
    ----------
    quality : mapping of str to float
        By name of the micrograph; higher is better.

    Returns
    -------
    dict of str to list of str
        Names by the heading of their group.
    """
    order = sorted(quality, key=lambda name: (-quality[name], name))
    if len(order) <= 3 * N_SHOWN:
        return {"All, best first": order} if order else {}
    middle = (len(order) - N_SHOWN) // 2
    return {"Best": order[:N_SHOWN], "Typical": order[middle:middle + N_SHOWN], "Worst": order[:-N_SHOWN - 1:-1]}


def make_pictures(quality: Mapping[str, float], draw: Callable[[str], str],
                  describe: Callable[[str], str]) -> dict[str, list[Picture]]:
    """Make pictures of the best, typical and worst micrographs.

    Parameters
    ----------
    quality : mapping of str to float
        As for `choose_micrographs`.
    draw : callable
        Returns the data URL of the image of a micrograph; if it raises DeepEMError, the error is shown instead.
    describe : callable
        Returns the caption of a micrograph.

    Returns
    -------
    dict of str to list of Picture
        By the heading of their group.
    """
    def picture(number: int, name: str) -> Picture:
        caption = describe(name)
        try:
            return Picture(f"picture-{number}", name, caption, draw(name), f"Micrograph {name} with circles: {caption}")
        except DeepEMError as error:
            return Picture(f"picture-{number}", name, f"{caption}; not shown: {error}")

    groups = choose_micrographs(quality)
    numbers = iter(range(1, 1 + 3 * N_SHOWN))
    return {group: [picture(next(numbers), name) for name in names] for group, names in groups.items()}


def thumbnail(pixels: np.ndarray, diameter_px: float, circles: Sequence[tuple[np.ndarray, dict[str, Any]]],
              region: Region | None = None) -> str:
    """Draw a small image of a micrograph with circles.

    Parameters
    ----------
    pixels : (rows, cols) array
    diameter_px : float
        Diameter of particles and circles in pixels.
    circles : sequence of ((n, 2) array, dict)
        For each group of circles their centres as x, y in pixels, and the style for `draw_circles`.
    region : Region, optional
        Frame to draw.

    Returns
    -------
    str
        Data URL.
    """
    from matplotlib.figure import Figure

    dots = 100
    height, width = (round(THUMBNAIL_PX * length / max(pixels.shape)) for length in pixels.shape)
    figure = Figure(figsize=((width + 0.5) / dots, (height + 0.5) / dots))  # fractions of pixels are cut off
    axes = figure.add_axes((0, 0, 1, 1))
    show_micrograph(axes, pixels, diameter_px)
    for centres_xy, style in circles:
        draw_circles(axes, centres_xy, diameter_px, linewidths=CIRCLE_WIDTH, **style)
    if region is not None:
        draw_region(axes, region, SKY, CIRCLE_WIDTH)
    axes.set_axis_off()
    file = io.BytesIO()
    # Without chroma subsampling, in which thin lines would lose their colours.
    figure.savefig(file, format="jpeg", dpi=dots, pil_kwargs={"quality": JPEG_QUALITY, "subsampling": 0,
                                                              "optimize": True})
    return _data_url("jpeg", file)


def _data_url(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("", "-")
    return True
