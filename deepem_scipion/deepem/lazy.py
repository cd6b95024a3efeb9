# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Public names of a package that are imported on first use.

Scipion imports the plugin at start-up and the command line answers `--help`; neither should wait for scientific
libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def attach(package: str, names: Mapping[str, Sequence[str]],
           ) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make names of a package's modules available in the package itself.

    Parameters
    ----------
    package : str
        Name of the package (`__name__` in its `__init__`).
    names : mapping of str to sequence of str
        Public names by the module that defines them.

    Returns
    -------
    getter : callable
        The package's `__getattr__`.
    listing : callable
        The package's `__dir__`.
    public : list of str
        The package's `__all__`.

    Examples
    --------
    >>> getter, listing, public = attach("deepem_scipion.deepem", {"errors": ["DeepEMError"]})
    >>> public, getter("DeepEMError").__name__
    (['DeepEMError'], 'DeepEMError')
    """
    modules = {name: module for module, public in names.items() for name in public}

    def getter(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    public = sorted(modules)
    return getter, lambda: public, public
