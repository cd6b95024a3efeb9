# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception of the method."""


class DeepEMError(ValueError):
    """A problem that the user can mend.

    The message says what was found, what was expected and what to do, and names the file.
    """
