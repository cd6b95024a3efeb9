# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""DeepEM: the method, on arrays and files, without Scipion."""
