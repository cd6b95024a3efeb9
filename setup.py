# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packaging of the plugin: what has to be computed. Metadata and settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# What Scipion imports of the method (numpy to tifffile come with Scipion).
READ = [
    "numpy>=1.24",
    "scipy>=1.9",
    "matplotlib>=3.7",
    "mrcfile>=1.4",
    "pillow>=9.1",
    "tifffile>=2023.3.15",
    "imagecodecs>=2023.3.16,<2026; python_version < '3.12'",
    "imagecodecs>=2024.6.1,<2026; python_version >= '3.12'",
    "safetensors>=0.4.4",
]
PICK = [*READ, "llvmlite>=0.41", "threadpoolctl>=3", "jinja2>=3.1", "rich>=13", "starlette>=0.40",
        "uvicorn>=0.30"]
PROGRAM = [*PICK, "keras>=3.7", "tensorflow>=2.17,<3"]  # for Python 3.10 and newer
TUNE = "optuna>=4"
ONNX = "onnx>=1.15"


def read_version():
    """Version literal of the package, read without importing it (an import would need Scipion)."""
    text = (HERE / "deepem_scipion" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


setup(
    version=read_version(),
    packages=find_packages(include=["deepem_scipion", "deepem_scipion.*"]),
    package_data={"deepem_scipion": ["protocols.conf", "deepem_logo.png", "templates/*.json.template",
                                     "deepem/report/*.j2", "deepem/model/general.deepem", "deepem/studio/static/*"]},
    install_requires=["scipion-pyworkflow>=3.11", "scipion-em>=3.11", "psutil", *READ],
    extras_require={
        "pick": PICK,
        "program": PROGRAM,
        "gpu": [*PROGRAM, "tensorflow[and-cuda]>=2.17,<3"],
        "tune": [TUNE],
        "onnx": [ONNX],
        "cryosparc": ["cryosparc-tools>=4.4"],
        "dev": [*PROGRAM, TUNE, ONNX, "onnxruntime>=1.16", "pytest>=7.4", "hypothesis>=6.80", "ruff>=0.10", "mypy>=1.8",
                "vermin>=1.6", "starfile", "emtable", "cryosparc-tools>=4.4", "scipion-app>=3.8",
                "scipion-em-relion>=5.0.2,<6",
                "pytest-cov>=5", "pytest-xdist>=3.7", "mutmut>=3.8", "playwright>=1.40", "nox>=2024.4.15", "uv>=0.4",
                "build>=1", "twine>=6",
                "atheris>=3; sys_platform == 'linux' and python_version >= '3.11'",
                "sphinx>=8.1", "myst-parser>=4", "sphinx-argparse>=0.5", "furo"],
    },
    entry_points={
        "console_scripts": ["deepem = deepem_scipion.deepem.commands.main:main"],
        "pyworkflow.plugin": ["deepem_scipion = deepem_scipion"],
    },
)
