# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout of the code: the order of the folders, private names, the length of functions and modules."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import deepem_scipion

PLUGIN = Path(deepem_scipion.__file__).parent
METHOD = PLUGIN / "deepem"
METHOD_NAME = "deepem_scipion.deepem"
# No module imports from a level above its own, not even inside a function.
LEVELS = (("errors", "runtime", "atomic", "lazy", "locks", "textfiles", "startables"), ("micrographs",),
          ("coordinates",), ("evaluation",), ("network",), ("model",), ("picking",), ("training",), ("simulation",),
          ("report",), ("studio",), ("commands", "__main__"))
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
MAX_FUNCTION_LINES, MAX_MODULE_LINES = 40, 300
# Longer than that, each for the reason beside it; functions are counted without their docstrings.
LONG = {
    "deepem_scipion.protocols.form_pick:_defineSearchParams": "a list of parameters, without a branch",
    "deepem_scipion.protocols.form_train:_defineTrainingParams": "a list of parameters, without a branch",
    "deepem_scipion.protocols.form_evaluate:_defineInputParams": "a list of parameters, without a branch",
    "deepem_scipion.deepem.picking.results": "the one class that knows the files of a results folder",
    **dict.fromkeys((f"deepem_scipion.protocols.protocol_{name}" for name in ("evaluate", "pick", "train")),
                    "the user's manual of the protocol, its class docstring, takes 50 to 70 lines"),
}


def module_name(path):
    """Dotted name of a source file."""
    parts = (PLUGIN.name, *path.relative_to(PLUGIN).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PLUGIN.rglob("*.py"))}
FILES = {module_name(path): path for path in sorted(PLUGIN.rglob("*.py"))}
METHOD_MODULES = [name for name in TREES if f"{name}.".startswith(f"{METHOD_NAME}.")]
PACKAGES = [name for name in METHOD_MODULES if FILES[name].name == "__init__.py"]


def imports(module, tree):
    """Yield (module, name or None) for every import of this package's modules in a syntax tree, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.startswith(PLUGIN.name))
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            if node.level:
                base = base[:len(base) - node.level + (FILES[module].name == "__init__.py")]
            source = ".".join([*(base if node.level else []), *([node.module] if node.module else [])])
            if source.split(".")[0] == PLUGIN.name:
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    yield (inner, None) if inner in TREES else (source, alias.name)


def top_level(tree):
    """The tree without functions and blocks under TYPE_CHECKING: what runs when the module is imported."""
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef)
            and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(kept, [])


def level(module):
    """Number of the level of a module of the method; that of the package itself, which loads lazily, is the highest."""
    parts = module.removeprefix(METHOD_NAME).split(".")
    return LEVEL[parts[1]] if len(parts) > 1 else len(LEVELS)


@pytest.mark.parametrize("module", METHOD_MODULES)
def test_no_import_of_the_method_runs_upwards_or_out_of_it(module):
    for source, name in imports(module, TREES[module]):
        if not f"{source}.".startswith(f"{METHOD_NAME}."):
            assert (source, name) == (PLUGIN.name, "__version__")
        else:
            assert level(source) <= level(module), f"{module} imports {source}"


def test_no_two_modules_import_each_other():
    graph = {module: {source for source, _ in imports(module, top_level(tree)) if source != module}
             for module, tree in TREES.items()}
    list(TopologicalSorter(graph).static_order())  # an error names the cycle


@pytest.mark.parametrize("module", TREES)
def test_no_private_name_of_another_module_is_used(module):
    tree = TREES[module]
    found = list(imports(module, tree))
    private = [f"{source}.{name}" for source, name in found if name and name[0] == "_" and not name.startswith("__")]
    modules = {source.split(".")[-1] for source, name in found if name is None}
    known = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             for alias in node.names if alias.name in modules}
    private += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name) and node.value.id in known
                and node.attr[0] == "_" and not node.attr.startswith("__")]
    assert private == []


def lengths(module):
    """Lines of a module and, without their docstrings, of its functions: name, number, and the most that is allowed."""
    yield module, len(FILES[module].read_text(encoding="utf-8").splitlines()), MAX_MODULE_LINES
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef):
            docstring = node.body[:1] if ast.get_docstring(node) else []
            lines = [each.end_lineno - each.lineno + 1 for each in (node, *docstring)]
            yield f"{module}:{node.name}", 2 * lines[0] - sum(lines), MAX_FUNCTION_LINES


def test_long_functions_and_modules_are_those_with_a_reason():
    long = {name for module in TREES if ".tests." not in module for name, n, most in lengths(module) if n > most}
    known = set(LONG)
    assert sorted(long - known) == [], "divide them, or give a reason in LONG"
    assert sorted(known - long) == [], "no longer there or no longer long: remove from the list"


def test_packages_are_imported_without_numerical_libraries_and_all_their_names_are_there():
    code = ("import importlib, sys; packages = [importlib.import_module(name) for name in sys.argv[1:]]; "
            "assert not {'numpy', 'tensorflow', 'keras'} & set(sys.modules), 'loaded at import'; "
            "print(*(f'{package.__name__}.{name}' for package in packages for name in package.__all__ "
            "if getattr(package, name)))")
    done = subprocess.run([sys.executable, "-c", code, *PACKAGES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert f"{METHOD_NAME}.train_model" in names
    assert [name for name in names if name in TREES] == [], "hidden by the module of the same name once that is loaded"
