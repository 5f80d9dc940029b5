"""The command line: what goes where, and with which exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

import lab
import lab.replay
import lab.run
from lab import cli
from lab.cli import networks
from lab.errors import (
    ImpairmentError,
    KernelRefused,
    LabError,
    MissingFeature,
    RunFailed,
    TopologyError,
    TunnelRefused,
    UsageError,
)
from lab.kernel import caps
from lab.replay import Difference, Replay

VERBS: Final = (
    "check",
    "list",
    "show",
    "run",
    "sweep",
    "nat",
    "shell",
    "replay",
    "ladder",
    "report",
    "detect",
    "explain",
    "policies",
    "mn",
    "demo",
    "kernel",
    "broker",
    "client",
)

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Capability:
    """As in lab.kernel.caps."""

    name: str
    ok: bool
    detail: str = ""
    instead: str = ""


class FakeRun:
    """A run that ended with `status`."""

    def __init__(self, status: str) -> None:
        self.status = status

    def summary(self) -> list[str]:
        return ["home_nat: a title", f"  result: {self.status}"]

    def to_json(self) -> dict[str, Any]:
        return {"path": "/runs/1", "status": self.status}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | BaseException], list[tuple[str, dict[str, Any]]]]:
    """Put in the place of lab.run.run a function that ends as told; gives the list of its calls."""

    def end_with(outcome: str | BaseException) -> list[tuple[str, dict[str, Any]]]:
        calls: list[tuple[str, dict[str, Any]]] = []

        def run(name: str, **options: Any) -> FakeRun:
            calls.append((name, options))
            options["progress"]("building")
            if isinstance(outcome, BaseException):
                raise outcome
            return FakeRun(outcome)

        monkeypatch.setattr(sys.modules["lab.run"], "run", run)
        return calls

    return end_with


Runs = Callable[[str | BaseException], list[tuple[str, dict[str, Any]]]]


def test_version_is_printed(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lab {lab.__version__}\n"


def test_tools_of_the_system_are_found_by_ordinary_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/home/ann/bin:/usr/bin:/bin")
    assert cli.main(["--version"]) == 0
    assert os.environ["PATH"] == "/home/ann/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    assert cli.main(["--version"]) == 0
    assert os.environ["PATH"].count("/usr/sbin") == 1


def test_every_verb_is_listed_by_help(capsys: Capture) -> None:
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("  ") and line[2].isalpha()} - {"Start"}
    assert listed == set(VERBS)


@pytest.mark.parametrize("verb", [*VERBS, "kernel build", "kernel info"])
def test_help_of_every_verb_has_an_example(verb: str, capsys: Capture) -> None:
    assert cli.main([*verb.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example: lab {verb}" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Usage: lab"),
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing argument"),
        (["run", "home_nat", "--speed", "9"], "No such option"),
        (["run", "home_nat", "--trials", "0"], "--trials"),
        (["run", "home_nat", "--seed", "many"], "--seed"),
        (["run", "home_nat", "--timeout", "0"], "--timeout 0: a number of seconds"),
        (["run", "home_nat", "--wall-timeout", "-3"], "--wall-timeout -3: a number of seconds"),
        (["run", "home_nat", "--set", "delay_ms"], "KEY=VALUE"),
        (["run", "home_nat", "--set", "=1"], "KEY=VALUE"),
        (["show", "home_nat", "--set", "dely_ms=1"], "delay_ms"),
        (["show", "home_nat", "--set", "delay_ms=soon"], "delay_ms"),
        (["show", "home_nat", "--out", "home_nat.doc"], ".svg"),
        (["show", "hom_nat"], "did you mean home_nat?"),
        (["nat", "toaster"], "no preset 'toaster'; choose one of home, old_home"),
        (["nat", "home", "--set", "maping=EIM"], "no option 'maping'; did you mean mapping?"),
        (["nat", "home", "--set", "ports=overload"], "ports=overload cannot have hairpinning=external"),
        (["nat", "--set", "proto41_host=eve"], "proto41_host='eve' is not inside"),
        (["run", "hom_nat"], "did you mean home_nat?"),
        (["shell", "hom_nat"], "did you mean home_nat?"),
        (["shell", "home_nat", "lapdog"], "the nodes are laptop"),
        (["show", "nowhere/home_nat.py"], "no file"),
        (["run", "home_nat", "--on", "mars"], "auto"),
        (["replay", "/nonexistent/run"], "no run folder"),
    ],
)
def test_a_mistake_in_the_command_line_is_explained_with_status_2(
    arguments: list[str], told: str, capsys: Capture
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert told in (err or out)
    assert "Traceback" not in err
    assert out == "" or arguments == []


@pytest.mark.parametrize(("status", "exit_status"), [("ok", 0), ("check failed", 1), ("error", 1)])
def test_the_exit_status_of_run_is_its_outcome(status: str, exit_status: int, runs: Runs, capsys: Capture) -> None:
    runs(status)
    assert cli.main(["run", "home_nat"]) == exit_status
    out, err = capsys.readouterr()
    assert out == f"home_nat: a title\n  result: {status}\n"
    assert err == "lab: building\n"


def test_run_in_json_prints_nothing_else_on_standard_output(runs: Runs, capsys: Capture) -> None:
    runs("check failed")
    assert cli.main(["run", "home_nat", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"path": "/runs/1", "status": "check failed"}


def test_options_of_run_arrive(runs: Runs, tmp_path: Path) -> None:
    calls = runs("ok")
    settings = "--set delay_ms=5 --set mapping=APDM --set delay_ms=7"
    assert cli.main(f"run home_nat {settings} --seed 3 --trials 4 --on host --out {tmp_path}/x".split()) == 0
    [(name, options)] = calls
    del options["progress"]
    assert name == "home_nat"
    assert options == {
        "on": "host",
        "seed": 3,
        "trials": 4,
        "out": tmp_path / "x",
        "parameters": {"delay_ms": "7", "mapping": "APDM"},
        "start_time_s": None,
        "real_time": False,
        "timeout_s": None,
        "wall_timeout_s": None,
        "verify": True,
    }


def test_what_is_built_need_not_be_verified(runs: Runs) -> None:
    calls = runs("ok")
    assert cli.main(["run", "home_nat", "--no-verify"]) == 0
    assert calls[0][1]["verify"] is False


def test_the_presets_of_nats_are_listed(capsys: Capture) -> None:
    assert cli.main(["nat", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["carrier"]["options"]["ports"] == "block"
    assert cli.main(["nat", "list"]) == 0
    assert "old_home" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "exit_status"),
    [
        (UsageError("no such thing"), 2),
        (TopologyError("no path", node="laptop"), 2),
        (MissingFeature("netem", instead="use --set delay_ms=0"), 3),
        (KernelRefused("nat", "load rules", 1), 3),
        (RunFailed("the agent ended", folder="/runs/1"), 1),
        (ImpairmentError("a - b", {"delay_ms": 20}, {"delay_ms": 1}), 1),
        (TunnelRefused(300, "authentication failed"), 1),
    ],
)
def test_an_error_is_one_sentence_on_standard_error(
    error: LabError, exit_status: int, runs: Runs, capsys: Capture
) -> None:
    runs(error)
    assert cli.main(["run", "home_nat"]) == exit_status
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"lab: building\nlab: {error}\n"


@pytest.mark.parametrize(("difference", "exit_status"), [(None, 0), ("broker-eth0.pcap: packet 3", 1)])
def test_a_replay_that_differs_has_status_1(
    difference: str | None, exit_status: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    words = None if difference is None else Difference(*difference.split(": "))
    replayed = Replay(before="ab" * 32, after="cd" * 32, changed=("seed was 1 and is 2",), difference=words)
    monkeypatch.setattr(lab.replay, "replay", lambda folder, progress: replayed)
    assert cli.main(["replay", "runs/1"]) == exit_status
    out = capsys.readouterr().out
    assert "seed was 1 and is 2" in out
    assert (difference or "equal: cd") in out
    assert cli.main(["replay", "runs/1", "--json"]) == exit_status
    assert json.loads(capsys.readouterr().out)["equal"] is (difference is None)


def test_an_interrupted_run_has_the_status_of_an_interrupted_program(runs: Runs, capsys: Capture) -> None:
    runs(KeyboardInterrupt())
    assert cli.main(["run", "home_nat"]) == 130
    assert capsys.readouterr().err.endswith("lab: interrupted\n")


def test_an_error_of_our_own_is_not_hidden(runs: Runs) -> None:
    runs(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "home_nat"])


@pytest.mark.parametrize(
    ("arguments", "node", "command"),
    [
        (["home_nat"], None, None),
        (["home_nat", "nat"], "nat", None),
        (["home_nat", "nat", "--", "nft", "list", "ruleset"], "nat", ["nft", "list", "ruleset"]),
        (["home_nat", "--", "ip", "--help"], None, ["ip", "--help"]),
        (["home_nat", "--set", "delay_ms=0", "nat", "--", "sh", "-c", "a -- b"], "nat", ["sh", "-c", "a -- b"]),
    ],
)
def test_what_follows_two_dashes_is_run_on_the_node(
    arguments: list[str], node: str | None, command: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def shell(name: str, node: str | None, parameters: Mapping[str, str], argv: Sequence[str] | None) -> int:
        calls.append((name, node, argv))
        return 7

    monkeypatch.setattr(sys.modules["lab.run"], "shell", shell)
    assert cli.main(["shell", *arguments]) == 7
    assert calls == [("home_nat", node, command)]


def test_list_names_every_topology_with_its_lesson(capsys: Capture) -> None:
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert cli.main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"home_nat", "direct_6in4", "firewall_3653"} <= {topology["name"] for topology in listed}
    for topology in listed:
        assert f"{topology['name']} " in out
        assert topology["title"]
        assert topology["title"] in out


def test_show_prints_lesson_parameters_and_addresses(capsys: Capture) -> None:
    assert cli.main(["show", "home_nat", "--set", "delay_ms=0"]) == 0
    out = capsys.readouterr().out
    assert "laptop --- nat --- internet --- broker --- server" in out
    assert "delay_ms" in out
    assert "192.168.0.2/24" in out


def test_show_in_json_is_the_plan(capsys: Capture) -> None:
    assert cli.main(["show", "home_nat", "--json", "--set", "delay_ms=3"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parameters"]["delay_ms"] == 3
    names = {node["name"] for node in shown["plan"]["nodes"]}
    assert names == {"laptop", "nat", "internet", "broker", "server"}


def test_show_draws(tmp_path: Path, capsys: Capture) -> None:
    drawing = tmp_path / "home_nat.svg"
    assert cli.main(["show", "home_nat", "--out", str(drawing)]) == 0
    assert "<svg" in drawing.read_text()
    assert str(drawing) in capsys.readouterr().err


def test_a_broker_that_cannot_be_is_refused_wherever_it_is_planned(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from lab import Network\n"
        "def build(net: Network) -> None:\n"
        "    net.link(net.client('laptop'), net.broker('broker', speed=9))\n"
        "async def scenario(net): pass\n"
        "def check(run): pass\n"
    )
    for command in (
        ["show"],
        ["run", "--on", "host"],
        ["explain", "--from", "laptop", "--to", "broker", "--udp", "3653"],
    ):
        assert cli.main([command[0], str(file), *command[1:]]) == 2, command
        assert "broker: a broker has no option speed; it has" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["SVG", "Png"])
def test_a_drawing_is_known_by_its_suffix_in_any_case(suffix: str, tmp_path: Path) -> None:
    drawing = tmp_path / f"home_nat.{suffix}"
    assert cli.main(["show", "home_nat", "--out", str(drawing)]) == 0
    assert drawing.stat().st_size > 1000


def test_a_drawing_that_cannot_be_written_is_a_mistake_of_the_command_line(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["show", "home_nat", "--out", str(tmp_path / "absent" / "home_nat.svg")]) == 2
    assert "cannot write" in capsys.readouterr().err


def with_capabilities(monkeypatch: pytest.MonkeyPatch, *capabilities: Capability) -> None:
    monkeypatch.setitem(sys.modules, "lab.kernel.caps", SimpleNamespace(probe=lambda: list(capabilities)))


def test_check_tells_the_way_out_of_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    usable = [Capability(name, True, "there") for name in sorted(networks.ESSENTIAL)]
    with_capabilities(monkeypatch, *usable, Capability("netem", False, "not in this kernel", "modprobe sch_netem"))
    assert cli.main(["check"]) == 0
    assert "modprobe sch_netem" in capsys.readouterr().out
    assert cli.main(["check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["usable"] is True
    assert told["features"][-1] == {
        "name": "netem",
        "ok": False,
        "essential": False,
        "detail": "not in this kernel",
        "instead": "modprobe sch_netem",
    }


@pytest.mark.parametrize("lacking", sorted(networks.ESSENTIAL))
def test_check_has_status_3_where_no_network_can_be_built(
    lacking: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with_capabilities(monkeypatch, *(Capability(name, name != lacking) for name in sorted(networks.ESSENTIAL)))
    assert cli.main(["check"]) == 3
    assert "No network can be built here" in capsys.readouterr().out


def test_ctrl_c_while_the_command_line_is_being_imported_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    path = os.pathsep.join([str(tmp_path), str(Path(lab.__file__).parent.parent)])
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "lab", "list"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (subprocess.CompletedProcess([], -9, "", ""), "not found out: it was killed (SIGKILL)"),
        (subprocess.CompletedProcess([], 1, "", "Traceback\nOSError: no"), "not found out: OSError: no"),
        (subprocess.CompletedProcess([], 7, "", ""), "not found out: it ended with status 7"),
    ],
)
def test_a_probe_that_does_not_end_well_is_told_in_a_sentence(
    ended: subprocess.CompletedProcess[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: ended)
    with pytest.raises(LabError, match=f"^what this kernel can do was {re.escape(told)}$"):
        caps.probe.__wrapped__()
