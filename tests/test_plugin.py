# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin as a whole: its parts are consistent, and Scipion finds it."""

import ast
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import resolve_name
from pathlib import Path

import pytest
from pwem.protocols import EMProtocol, ProtParticlePickingAuto
from pyworkflow import Config
from test_scipion_python import OF_THE_PROGRAM

import deepem_scipion
from deepem_scipion import constants
from deepem_scipion.deepem import network
from deepem_scipion.deepem.training import presets

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "deepem_scipion"
CONTACT = "scipion@cnb.csic.es"  # of those who host the plugins
TEXT_SUFFIXES = ("", ".py", ".md", ".rst", ".toml", ".conf", ".js", ".html", ".template", ".yml")
REGISTRIES = r"pypi\.org|pythonhosted\.org|anaconda\.org|conda\.io|npmjs\.|crates\.io"


@pytest.fixture(scope="module")
def domain():
    domain = Config.getDomain()
    domain.getProtocols()
    return domain


@pytest.fixture(scope="module")
def protocols(domain):
    """Our protocol classes by name."""
    return {name: cls for name, cls in domain.getProtocols().items() if cls.__module__.startswith("deepem_scipion")}


def run_python(code):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True,
                          cwd=os.path.dirname(sys.executable)).stdout


def test_scipion_finds_the_protocols_and_the_object(domain, protocols):
    assert {"ProtDeepEMTrain", "ProtDeepEMPick"} <= set(protocols)
    assert "DeepEMModel" in domain.getObjects()


def test_the_tree_of_protocols_lists_all_of_them_and_nothing_else(protocols):
    text = (PACKAGE / "protocols.conf").read_text()
    header, tree = text.split("=", 1)
    assert header.split() == ["[PROTOCOLS]", "Protocols", "SPA"]
    json.loads(tree)
    assert sorted(re.findall(r'"value": "(\w+)"', tree)) == sorted(protocols)


def test_the_protocols_are_where_users_look_for_them_with_short_names(domain):
    from pyworkflow.gui.project.viewprotocols_extra import ProtocolTreeConfig

    found = {}

    def collect(node, path):
        for child in node.childs:
            if (child.value or "").startswith("ProtDeepEM"):
                found[child.text] = path
            collect(child, (*path, child.text))

    collect(ProtocolTreeConfig.load(domain, os.devnull)["Protocols SPA"], ())
    picking = ("Particles", "Picking")
    assert found == {"DeepEM training": picking, "DeepEM picking": picking, "DeepEM evaluation": picking,
                     "DeepEM studio": picking,
                     "import DeepEM model": ("Imports", "more"), "export DeepEM model": ("Exports",),
                     "import coordinates (DeepEM)": ("Imports", "more"),
                     "export coordinates (DeepEM)": ("Exports",)}


def test_package_data_and_logo_exist():
    call = next(node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
                if isinstance(node, ast.keyword) and node.arg == "package_data")
    patterns = ast.literal_eval(call.value)["deepem_scipion"]
    assert all(list(PACKAGE.glob(pattern)) for pattern in patterns), patterns
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
              and "cache" not in str(path.relative_to(PACKAGE))}
    assert others == packed
    assert (PACKAGE / deepem_scipion._logo) in packed


def test_the_version_literal_is_the_version_of_the_distribution():
    assert deepem_scipion.__version__ == version("scipion-em-deepem")
    assert (ROOT / "CHANGES.txt").read_text().startswith(f"{deepem_scipion.__version__}:")


def test_the_addresses_of_the_project_agree_and_are_none_of_a_package_registry():
    metadata = (ROOT / "pyproject.toml").read_text()
    urls = re.findall(r'^\w+ = "(https://.*)"$', metadata.split("[project.urls]")[1].split("[tool")[0], re.MULTILINE)
    assert len(urls) == 5 and all(url.startswith(deepem_scipion.Plugin._url) for url in urls)
    assert f'email = "{CONTACT}"' in metadata
    patterns = "deepem_scipion/**/*", "docs/*", "benchmarks/*.py", "*.rst", "*.toml", "setup.py", "Makefile"
    texts = [path for pattern in patterns for path in ROOT.glob(pattern)
             if path.is_file() and path.suffix in TEXT_SUFFIXES]
    found = [path for path in texts if re.search(REGISTRIES, path.read_text(encoding="utf-8"))]
    assert len(texts) > 200 and found == []


def test_every_citation_is_in_the_bibliography(protocols):
    for cls in protocols.values():
        for key, text in [*cls().getCitations().items(), *cls().getPackageCitations().items()]:
            assert "10.1186/s12859-017-1757-y" in text, key


def test_discovery_loads_no_library_that_the_framework_has_not_loaded():
    code = ("import importlib, sys, pwem.protocols, pwem.viewers, pwem.wizards; before = set(sys.modules); "
            "[importlib.import_module('deepem_scipion.' + name) for name in "
            "('protocols', 'viewers', 'wizards', 'objects', 'constants', 'convert', 'bibtex', 'plugin')]; "
            "print(*{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)")
    assert run_python(code).split() == ["deepem_scipion"]


def test_whatever_scipion_imports_of_the_method_needs_none_of_the_libraries_of_the_program():
    """Those in functions as well: a viewer may be opened where the program has a Python of its own."""
    wanted = set()
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] in ("deepem", "tests") or parts[-1] == "demo":  # `make demo` has one environment for all
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = resolve_name("." * node.level + (node.module or ""), ".".join(parts[:-1]))
                wanted |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    modules = sorted(name for name in wanted if name.startswith("deepem_scipion.deepem.")
                     and (ROOT / name.replace(".", "/")).with_suffix(".py").exists())
    assert "deepem_scipion.deepem.report.model_plots" in modules
    assert run_python(f"import importlib, sys; sys.modules.update(dict.fromkeys({OF_THE_PROGRAM}, None)); "
                      f"[importlib.import_module(name) for name in {modules}]; print('all')") == "all\n"


@pytest.mark.slow
def test_the_method_needs_no_scipion_and_loads_tensorflow_only_when_a_network_is_made():
    modules = [module.name for module in pkgutil.walk_packages([str(PACKAGE / "deepem")], "deepem_scipion.deepem.")
               if not module.name.endswith((".__main__", ".layers"))]
    code = ("import sys, importlib; sys.modules.update(dict.fromkeys(['pwem', 'pyworkflow']));"
            f"[importlib.import_module(name) for name in {modules}]; print('tensorflow' in sys.modules);"
            "from deepem_scipion.deepem.network import PRESETS, build_network; build_network(PRESETS['26s']);"
            "print('tensorflow' in sys.modules)")
    assert run_python(code).split() == ["False", "True"]


def test_the_forms_offer_what_the_method_has():
    assert constants.PRESETS == ("auto", *network.PRESETS, "custom")
    assert len(constants.PRESET_LABELS) == len(constants.PRESETS)
    assert constants.PRESETS[constants.PRESET_CUSTOM] == "custom"
    assert set(constants.TRAINING_PRESETS) == set(presets.TRAINING_PRESETS)


def form_of(cls):
    """Parameters that the class adds to those of the framework, by name."""
    base = ProtParticlePickingAuto if issubclass(cls, ProtParticlePickingAuto) else EMProtocol
    inherited = {name for name, _ in base().getDefinition().iterParams()} | {
        "hostName", "numberOfThreads", "binThreads", "useGpu", "gpuList",
        "streamingWarning", "streamingSleepOnWait", "streamingBatchSize"}
    return {name: param for name, param in cls().getDefinition().iterParams() if name not in inherited}


def test_every_parameter_of_a_form_is_read(protocols):
    for cls in protocols.values():
        ours = [each for each in cls.mro() if each.__module__.startswith("deepem_scipion")]
        source = "".join(map(inspect.getsource, ours))
        unread = [name for name in form_of(cls) if not re.search(rf"self\.{name}\b", source)]
        assert not unread, (cls, unread)


def test_every_parameter_of_a_form_has_a_label_a_help_and_a_working_condition(protocols):
    for cls in protocols.values():
        for name, param in form_of(cls).items():
            assert param.getLabel(), name
            assert name in ("stdLow", "stdHigh") or len(param.getHelp() or "") > 30, name
            assert cls().evalParamCondition(name) in (True, False), name


def test_every_protocol_has_a_manual_and_what_the_framework_asks_for(protocols):
    for name, cls in protocols.items():
        lines = cls.__doc__.strip().splitlines()
        assert 20 <= len(lines) <= 60, (name, len(lines))
        assert cls.__dict__["_label"] and "_possibleOutputs" in cls.__dict__
        assert "stepsExecutionMode" in cls.__dict__
        for method in ("_validate", "_warnings", "_summary", "_methods", "_citations"):
            assert method in cls.__dict__, (name, method)


def test_information_about_an_empty_form_is_harmless(protocols):
    for cls in protocols.values():
        protocol = cls()
        before = protocol.getObjDict()
        for method in (protocol._validate, protocol._warnings, protocol._summary, protocol._methods):
            assert isinstance(method(), list)
        assert protocol.getObjDict() == before


def test_every_source_file_names_its_licence():
    made = {".venv", ".nox", "build", "mutants", "results"}  # by tools and benchmarks
    files = [path for path in ROOT.rglob("*.py") if not made & set(path.relative_to(ROOT).parts)]
    assert files
    without = [path for path in files if path.stat().st_size and "SPDX-License-Identifier: GPL-3.0-or-later"
               not in path.read_text(encoding="utf-8")[:300]]
    assert not without
