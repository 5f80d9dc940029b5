"""Topology files are found, read, and their parameters bound; what is wrong in one is told by file and line."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lab.errors import TopologyError, UsageError
from lab.topology import catalog
from lab.topology.planner import make_plan

LESSONS = [info.name for info in catalog.list_topologies()]

MINE = '''\
"""A file of my own.

    a --- b
"""
from enum import Enum
from typing import Literal

from lab import Lab, Network, Run


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def build(
    net: Network,
    delay_ms: float = 20,
    size: int = 3,
    wide: bool = False,
    name: str = "b",
    colour: Colour = Colour.RED,
    mode: Literal["fast", "slow"] = "fast",
    limit: int | None = None,
) -> None:
    assert isinstance(colour, Colour)
    net.link(net.client("a"), net.broker(name), delay_ms=delay_ms)


async def scenario(net: Lab) -> None:
    pass


def check(run: Run) -> None:
    pass
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a topology file in it."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def variant(mine: Path, old: str, new: str) -> Path:
    assert old in MINE
    mine.write_text(MINE.replace(old, new, 1))
    return mine


# --- finding ---------------------------------------------------------------------------------------------------


def test_the_lessons_of_the_first_release_are_there() -> None:
    assert {
        "direct_6in4",
        "home_nat",
        "tcp_setup",
        "firewall_3653",
        "carrier_nat",
        "two_clients_one_nat",
        "routed_lan",
    } <= set(LESSONS)


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_loads_and_plans_with_its_defaults(name: str) -> None:
    module = catalog.load(name)
    plan = make_plan(catalog.build_network(module, catalog.bind_parameters(module, {})))
    assert plan.name == name
    assert module.title


@pytest.mark.parametrize("name", LESSONS)
def test_the_drawing_in_a_lesson_names_the_nodes_it_builds(name: str) -> None:
    module = catalog.load(name)
    net = catalog.build_network(module, catalog.bind_parameters(module, {}))
    drawn = {word for line in module.doc.splitlines() if "---" in line for word in re.findall(r"[a-z][a-z0-9_]*", line)}
    assert drawn == {node.name for node in net.nodes}


@pytest.mark.parametrize("name", LESSONS)
def test_listing_without_running_agrees_with_loading(name: str) -> None:
    info = next(info for info in catalog.list_topologies() if info.name == name)
    module = catalog.load(name)
    assert (info.title, info.path.resolve()) == (module.title, module.path)
    assert list(info.parameters) == list(module.parameters)
    assert all(module.parameters[key].default == value for key, value in info.parameters.items())
    json.dumps(dict(info.parameters))


def test_files_of_the_working_directory_are_found(mine: Path) -> None:
    assert "mine" in [info.name for info in catalog.list_topologies()]
    assert catalog.load("mine").path == mine.resolve()
    assert catalog.load("mine.py").path == mine.resolve()
    assert catalog.load(str(mine)).path == mine.resolve()


def test_other_python_files_are_not_listed_or_run(mine: Path) -> None:
    (mine.parent / "setup.py").write_text("raise SystemExit('run')\ndef build(): pass\n")
    (mine.parent / "broken.py").write_text("def build(:\n")
    names = [info.name for info in catalog.list_topologies()]
    assert "mine" in names
    assert not {"setup", "broken"} & set(names)


def test_an_unknown_name_is_answered_with_a_close_one() -> None:
    with pytest.raises(UsageError, match=r"no topology 'home-nat'; did you mean home_nat\?"):
        catalog.load("home-nat")
    with pytest.raises(UsageError, match=r"there are .*home_nat"):
        catalog.load("zzz")
    with pytest.raises(UsageError, match="no file nowhere/zzz.py"):
        catalog.load("nowhere/zzz.py")


# --- what a file says besides ----------------------------------------------------------------------------------


def test_a_scenario_that_takes_long_says_so_and_how_it_is_short(mine: Path) -> None:
    assert (catalog.load("mine").timeout_s, catalog.load("mine").short) == (600.0, {})
    mine.write_text(f"{MINE}\nTIMEOUT_S = 7200\nSHORT = {{'hours': 0.01}}\n")
    assert (catalog.load("mine").timeout_s, catalog.load("mine").short) == (7200.0, {"hours": 0.01})


@pytest.mark.parametrize("line", ["TIMEOUT_S = 'long'", "TIMEOUT_S = -1", "TIMEOUT_S = True", "SHORT = 3"])
def test_nonsense_about_that_is_told(mine: Path, line: str) -> None:
    mine.write_text(f"{MINE}\n{line}\n")
    with pytest.raises(UsageError, match=f"mine.py: {line.split()[0]} is a"):
        catalog.load("mine")


@pytest.mark.parametrize("name", LESSONS)
def test_the_short_form_of_a_lesson_has_parameters_that_it_knows(name: str) -> None:
    module = catalog.load(name)
    catalog.bind_parameters(module, module.short)


# --- parameters ------------------------------------------------------------------------------------------------


def test_defaults_are_plain_values_of_their_type(mine: Path) -> None:
    bound = catalog.bind_parameters(catalog.load(mine), {})
    assert bound == {
        "delay_ms": 20.0,
        "size": 3,
        "wide": False,
        "name": "b",
        "colour": "red",
        "mode": "fast",
        "limit": None,
    }
    assert isinstance(bound["delay_ms"], float)
    json.dumps(bound)


@pytest.mark.parametrize(
    ("key", "given", "bound"),
    [
        ("delay_ms", "2.5", 2.5),
        ("delay_ms", 7, 7.0),
        ("delay_ms", "1e1", 10.0),
        ("size", "-4", -4),
        ("size", 9, 9),
        ("wide", "yes", True),
        ("wide", "Off", False),
        ("wide", True, True),
        ("name", "c", "c"),
        ("name", "7", "7"),
        ("colour", "BLUE", "blue"),
        ("mode", "slow", "slow"),
        ("limit", "5", 5),
        ("limit", "none", None),
        ("limit", None, None),
    ],
)
def test_a_value_is_taken_as_text_or_as_it_is(mine: Path, key: str, given: Any, bound: Any) -> None:
    got = catalog.bind_parameters(catalog.load(mine), {key: given})[key]
    assert got == bound
    assert type(got) is type(bound)


@pytest.mark.parametrize(
    ("key", "given", "told"),
    [
        ("delay_ms", "fast", "delay_ms=fast does not fit; it is a float"),
        ("delay_ms", "nan", "does not fit"),
        ("delay_ms", True, "does not fit"),
        ("delay_ms", None, "needs a value"),
        ("size", "2.5", "size=2.5 does not fit; it is a int"),
        ("size", 2.5, "does not fit"),
        ("wide", "maybe", "does not fit; it is a bool"),
        ("wide", 1, "does not fit"),
        ("name", 7, "does not fit"),
        ("colour", "green", "colour=green is not one of red, blue"),
        ("mode", "idle", "not one of fast, slow"),
        ("dealy_ms", "5", "no parameter 'dealy_ms'; did you mean delay_ms? it has delay_ms: float = 20.0, size: int"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(mine: Path, key: str, given: Any, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        catalog.bind_parameters(catalog.load(mine), {key: given})
    assert told in str(caught.value)


def test_build_gets_an_enum_where_it_asked_for_one(mine: Path) -> None:
    module = catalog.load(mine)
    net = catalog.build_network(module, catalog.bind_parameters(module, {"colour": "blue", "name": "x"}))
    assert [node.name for node in net.nodes] == ["a", "x"]
    assert net.name == "mine"


def test_a_parameter_without_default_must_be_given(mine: Path) -> None:
    module = catalog.load(variant(mine, "net: Network,", "net: Network, count: int,"))
    assert module.parameters["count"].default is inspect.Parameter.empty
    with pytest.raises(UsageError, match="mine needs a value for count: --set count="):
        catalog.bind_parameters(module, {})
    assert catalog.bind_parameters(module, {"count": "2"})["count"] == 2


# --- errors in the file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("def check", "def chekc", r"mine\.py: has no check\(\)"),
        ("async def scenario", "def scenario", r"mine\.py:\d+: scenario must be written 'async def'"),
        ("def check", "async def check", r"mine\.py:\d+: check must be written 'def', without 'async'"),
        ("def build", "async def build", r"mine\.py:\d+: build must be written 'def', without 'async'"),
        ("size: int = 3", "size: list[int] = [3]", r"mine\.py:\d+: the parameter size of build is a list\[int\]"),
        ("size: int = 3", "*sizes: int", r"mine\.py:\d+: build cannot take \*sizes"),
        ("net: Network,\n", "net: Netwrok,\n", r"mine\.py:\d+: NameError"),
        ("from lab import", "from lba import", r"mine\.py:8: ModuleNotFoundError"),
    ],
)
def test_a_file_that_does_not_load_is_told_by_line(mine: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        catalog.load(variant(mine, old, new))


def test_an_error_in_build_is_told_by_line(mine: Path) -> None:
    module = catalog.load(variant(mine, "    net.link(", "    1 / 0\n    net.link("))
    with pytest.raises(UsageError, match=r"mine\.py:27: ZeroDivisionError"):
        catalog.build_network(module, catalog.bind_parameters(module, {}))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "delay_ms=delay_ms",
            "delay=delay_ms",
            "mine.py:27: .*'delay'; did you mean delay_ms[?] it has delay_ms, .*mtu",
        ),
        ('net.client("a")', 'net.client("a", colour=3)', "mine.py:27: .*'colour'; it has gateway"),
        ('net.client("a")', 'net.switch("a", ports=3)', "mine.py:27: .*'ports'; it has no options"),
    ],
)
def test_an_unknown_option_is_told_with_those_there_are(mine: Path, old: str, new: str, told: str) -> None:
    module = catalog.load(variant(mine, old, new))
    with pytest.raises(UsageError, match=told):
        catalog.build_network(module, catalog.bind_parameters(module, {}))


def test_a_build_that_wants_to_end_the_program_is_an_error_of_the_file(mine: Path) -> None:
    module = catalog.load(variant(mine, "    net.link(", "    raise SystemExit(3)\n    net.link("))
    with pytest.raises(UsageError, match=r"mine\.py:27: SystemExit: 3"):
        catalog.build_network(module, catalog.bind_parameters(module, {}))


def test_more_nodes_than_there_are_hardware_addresses_for_are_refused(mine: Path) -> None:
    many = "    for number in range(65535): net.client(f'c{number}')\n    net.link("
    module = catalog.load(variant(mine, "    net.link(", many))
    with pytest.raises(TopologyError, match="mine has 65537 nodes; the lab has addresses for 65534"):
        catalog.build_network(module, catalog.bind_parameters(module, {}))


def test_a_mistake_in_the_description_is_told_by_line_and_stays_a_topology_error(mine: Path) -> None:
    module = catalog.load(variant(mine, "net.broker(name)", 'net.broker("a")'))
    with pytest.raises(TopologyError, match=r"^mine\.py:27: there are two nodes called 'a'") as caught:
        catalog.build_network(module, catalog.bind_parameters(module, {}))
    assert caught.value.node == "a"
