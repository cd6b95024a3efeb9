# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception class of the method."""


class DeepEMError(ValueError):
    """A problem that the user can fix.

    The message names the file and states what was found, what was expected and what to do.
    """


class StoppedAtOnce(KeyboardInterrupt):
    """Interrupted a second time: threads are still at work, and are not to be waited for."""
