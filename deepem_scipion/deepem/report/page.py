# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTML page in one file: figures, charts, pictures and tables.

The page has no script, and its content security policy lets the browser fetch nothing. The template escapes all text.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ... import __version__
from ..atomic import atomic_write
from ..errors import DeepEMError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("template.html.j2")
DOCTYPE = b"<!DOCTYPE html>"
# Rows of a table at most; it then has about 200 kB.
MAX_ROWS = 1000
# Tables with more rows than this are folded.
MAX_OPEN_ROWS = 25
CHART_SIZE_IN = (5.0, 3.6)
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
        The file cannot be written, or there is a file that is no page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    text = templates.get_template(TEMPLATE.name).render(
        title=title, subject=subject, figures=figures, sections=sections, warnings=warnings, version=__version__,
        written=time.strftime(TIME_FORMAT))
    if _is_other_file(Path(path)):
        raise DeepEMError(f"{path}: there is a file that is no report. Expected the name of a new or earlier report.")
    with atomic_write(path, "wb") as handle:
        handle.write(text.encode("utf-8", "backslashreplace"))  # file names need not be valid UTF-8


def _is_other_file(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return not DOCTYPE.startswith(file.read(len(DOCTYPE)))


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
    for axes, alt, caption in zip(figure.axes, alts, captions or [""] * len(alts)):
        for other in figure.axes:
            other.set_visible(other is axes)
        axes.set_subplotspec(GridSpec(1, 1, figure)[0])
        file = io.BytesIO()
        figure.savefig(file, format="svg", dpi=200, transparent=True,
                       metadata={"Date": None})  # dpi is for what is rasterized
        charts.append(Chart(data_url("svg+xml", file), alt, caption))
    return charts


def data_url(kind: str, file: io.BytesIO) -> str:
    """Encode an image as a data URL.

    Parameters
    ----------
    kind : str
        Subtype of its media type, "jpeg" for instance.
    file : io.BytesIO
        The image.

    Returns
    -------
    str
    """
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("", "-")
    return True
