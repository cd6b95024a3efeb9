# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of the command line as the generated page shows it."""

from deepem_scipion.deepem.commands.parser import build_parser


def documented_parser():
    """The parser with the examples of its help as blocks of code."""
    parser = build_parser()
    for each in (parser, *parser.commands.values()):
        lines, before = [], ""
        for line in (each.epilog or "").splitlines():
            if line.startswith("  ") and before.endswith(":"):
                lines[-1:] = [f"{before}:", ""]
            lines.append(line)
            before = line
        each.epilog = "\n".join(lines)
    return parser
