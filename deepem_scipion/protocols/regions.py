# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Areas of micrographs that count in an evaluation."""

from ..deepem.coordinates.regions import checked_region, read_regions
from ..deepem.errors import DeepEMError
from ..deepem.micrographs.micrograph import read_shape


class CountedRegions:
    """Regions from the form, from a file, or inside a border. To be inherited together with the evaluation protocol."""

    def _getCommonRegion(self):
        """Annotated region of all micrographs in pixels of the reference; None if there is none in the form."""
        text = self.region.get("")
        try:
            values = [float(word) for word in text.replace(",", " ").split()]
        except ValueError:
            raise DeepEMError(f"Annotated region: {text!r} was given; expected four numbers such as 20 20 1220 1180.") \
                from None
        return checked_region(values, "Annotated region") if values else None

    def _readRegions(self, mics):
        """Annotated regions from the file by name of the micrograph, in pixels of the reference."""
        if not self.regionsFile.get(""):
            return {}
        names = {result: name for name, result in self._getResultNames(mics).items()}
        return read_regions(self.regionsFile.get(), {**names, **{name: name for name in mics}})

    def _getRegions(self, pixel, mics):
        """Counted regions by name of the micrograph, in pixels of the given size; others count as a whole."""
        rates = self._getSamplingRates()
        region = self._getCommonRegion()
        given = {**(dict.fromkeys(mics, region) if region else {}), **self._readRegions(mics)}
        regions = {name: tuple(value * rates[0] / pixel for value in values) for name, values in given.items()}
        others = {name: mic for name, mic in mics.items() if name not in regions} if self.border.get() else {}
        # From the edge of the first pixel, whose centre is 0.
        low = self.border.get() / pixel - 0.5
        for name, (rows, cols) in self._getShapes(others).items():
            high = [size * rates[1] / pixel - low - 1 for size in (cols, rows)]
            if min(high) <= low:
                raise RuntimeError(f"A border of {self.border.get():g} Å leaves nothing of {name} with {cols} x {rows} "
                                   f"px at {rates[1]:.4g} Å/px. Give a smaller one.")
            regions[name] = (low, low, *high)
        return regions

    def _getShapes(self, mics):
        """Rows and columns of micrographs by name, in pixels of the picks."""
        shapes = {}
        for name, mic in mics.items():
            try:
                shapes[name] = read_shape(mic.getFileName())
            except DeepEMError as error:
                self.warning(f"The size of a micrograph is assumed to be that of the others: {error}")
        if mics and not shapes:
            raise RuntimeError("The size of no micrograph could be read, so the border cannot be excluded. Set it to "
                               "0, or give the annotated region.")
        smallest = tuple(map(min, zip(*shapes.values())))  # usually all have the same size
        return {name: shapes.get(name, smallest) for name in mics}
