"""Imports keep to their direction, and what must be cheap to import is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parent.parent.parent
LAB: Final = CHECKOUT / "lab"

LAYERS: Final = (
    ("lab.errors",),
    (
        *("lab.topology", "lab.rules", "lab.tsp", "lab.encap", "lab.capfile", "lab.detect", "lab.explain"),
        *("lab.generators", "lab.journal", "lab.pictures", "lab.results", "lab.scratch", "lab.sources", "lab.wire"),
    ),
    ("lab.draw", "lab.icons", "lab.layout"),
    ("lab.kernel",),
    ("lab.actors",),
    ("lab.planned",),
    ("lab.scenario", "lab.shell", "lab.mininet"),
    ("lab.agent",),
    ("lab.engines",),
    ("lab.why",),
    (
        *("lab.nat", "lab.run", "lab.summary", "lab.policies", "lab.replay", "lab.dissect", "lab.ladder", "lab.report"),
        *("lab.measure", "lab.packets", "lab.tables", "lab.html"),
        *("lab.grid", "lab.cell", "lab.store", "lab.sweep", "lab.stats", "lab.plots"),
    ),
    ("lab.demo", "lab.mncli"),
    ("lab.cli", "lab.mn"),
    ("lab.__main__",),
)
"""From the bottom up: a module imports from its own layer and those before it, never from one after it."""

PURE: Final = LAYERS[1]

WITHIN_A_LAYER: Final = {
    "lab.topology": {"lab.topology", "lab.rules", "lab.sources"},
    "lab.rules": {"lab.rules"},
    "lab.tsp": {"lab.tsp"},
    "lab.encap": {"lab.encap"},
}
"""Of the pure packages: what each may know of its own layer."""

FORBIDDEN_IN_PURE: Final = {"socket", "asyncio", "pyroute2", "subprocess", "fcntl", "ctypes", "threading", "select"}

MODULES: Final = sorted(LAB.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a file of the lab."""
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(tree: ast.AST) -> Iterator[str]:
    """The modules that code imports at run time, anywhere in it, but not those imported only for type checkers.

    `from lab.kernel import nft` gives lab.kernel.nft, which names the layer as well as lab.kernel does.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from imports_of(other)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports_of(node)


def owner_of(module: str) -> str | None:
    """The entry of LAYERS that `module` belongs to, or None: `lab` itself and what is not the lab's."""
    for layer in LAYERS:
        for entry in layer:
            if module == entry or module.startswith(entry + "."):
                return entry
    return None


def layer_of(module: str) -> int | None:
    """The number of the layer that `module` belongs to, or None."""
    return next((number for number, layer in enumerate(LAYERS) if owner_of(module) in layer), None)


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `statement`, less those it starts with."""
    code = (
        f"import sys; before = set(sys.modules)\n{statement}\n"
        "loaded = sorted(set(sys.modules) - before)\nimport json; print(json.dumps(loaded))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    return set(json.loads(done.stdout))


def test_every_module_of_the_lab_belongs_to_a_layer() -> None:
    strays = [name_of(path) for path in MODULES if name_of(path) != "lab" and layer_of(name_of(path)) is None]
    assert strays == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    name = name_of(path)
    here = layer_of(name)
    if here is None:
        return  # lab/__init__.py names the public modules of all layers, and imports none
    wrong = []
    for module in imports_of(ast.parse(path.read_text())):
        there = layer_of(module)
        if there is None:
            continue
        allowed = WITHIN_A_LAYER.get(owner_of(name) or "")
        if there > here or (there == here and allowed is not None and owner_of(module) not in allowed):
            wrong.append(module)
    assert wrong == []


@pytest.mark.parametrize("path", [path for path in MODULES if owner_of(name_of(path)) in PURE[:4]], ids=name_of)
def test_the_pure_packages_import_nothing_that_does_io(path: Path) -> None:
    roots = {module.partition(".")[0] for module in imports_of(ast.parse(path.read_text()))}
    assert roots & FORBIDDEN_IN_PURE == set()


def test_importing_the_protocol_loads_no_socket_no_event_loop_and_no_netlink() -> None:
    loaded = loaded_by("import lab.tsp")
    assert "lab.tsp" in loaded
    assert loaded & {"socket", "_socket", "asyncio", "pyroute2", "subprocess", "networkx"} == set()


def test_importing_the_lab_loads_nothing_else_of_it() -> None:
    loaded = loaded_by("import lab")
    assert {module for module in loaded if module.startswith("lab")} == {"lab"}
    assert loaded & {"networkx", "matplotlib", "pyroute2", "asyncio", "typer", "rich"} == set()


def test_the_public_names_of_the_lab_can_be_loaded() -> None:
    loaded = loaded_by("import lab\nfor name in lab.__all__: getattr(lab, name)")
    assert {"lab.run", "lab.scenario", "lab.topology.network"} <= loaded


def test_the_agent_starts_without_what_only_the_other_side_needs() -> None:
    loaded = loaded_by("import lab.agent")
    assert "lab.agent" in loaded
    assert loaded & {"networkx", "matplotlib", "numpy", "pandas", "typer", "rich", "pyroute2"} == set()


def test_the_command_line_starts_without_what_only_some_verbs_need() -> None:
    loaded = loaded_by("import lab.cli")
    assert "lab.cli" in loaded
    assert loaded & {"networkx", "matplotlib", "numpy", "pandas", "pyroute2", "lab.run", "rich"} == set()


def test_only_declared_packages_are_imported() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    declared = {line.partition(">")[0] for line in project["dependencies"]}
    imported = {module.partition(".")[0] for path in MODULES for module in imports_of(ast.parse(path.read_text()))}
    extra = {"mininet"}  # where it is not, lab.mininet says so
    assert imported - set(sys.stdlib_module_names) - {"lab"} - extra == declared


def test_every_declared_package_is_pinned() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (CHECKOUT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    wanted = {line.partition(">")[0].partition("=")[0].lower() for line in [*project["dependencies"], *extras]}
    assert wanted <= pinned


def test_a_function_stays_itself_after_the_module_of_its_name_was_imported() -> None:
    code = "import lab\nfirst = lab.run\nimport lab.replay, lab.run\nassert lab.run is first, lab.run"
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True, timeout=60)
