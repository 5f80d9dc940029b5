"""The command line as a person uses it: whole processes, real networks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from lab.kernel.caps import Capabilities

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "nft_nat", "packet"), pytest.mark.timeout(240)]

CHECKOUT: Final = Path(__file__).parent.parent.parent


def lab(*arguments: str, cwd: Path, timeout_s: float = 100, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """`lab ARGUMENTS`, ended, with what it printed."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "lab", *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def address_of(node: str, topology: str, cwd: Path) -> str:
    plan: dict[str, Any] = json.loads(lab("show", topology, "--json", cwd=cwd).stdout)["plan"]
    [address] = [found["ipv4"] for found in plan["nodes"] if found["name"] == node]
    return str(address)


def test_check_says_that_networks_can_be_built(tmp_path: Path) -> None:
    done = lab("check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Networks can be built here." in done.stdout


def test_run_leaves_a_folder_and_prints_only_json(tmp_path: Path) -> None:
    done = lab("run", "home_nat", "--set", "delay_ms=0", "--seed", "5", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    folder = Path(told["path"])
    assert folder.parent == tmp_path / "runs"
    assert json.loads((folder / "run.json").read_text())["seed"] == 5
    assert "home_nat" in done.stderr


def test_a_delay_is_made_or_refused_but_not_forgotten(caps: Capabilities, tmp_path: Path) -> None:
    done = lab("run", "home_nat", "--set", "delay_ms=20", "--on", "host", cwd=tmp_path)
    if caps["netem"].ok:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 3
        assert "netem" in done.stderr
        assert "--set delay_ms=0" in done.stderr
        assert not (tmp_path / "runs").exists()


def test_a_check_that_fails_has_status_1_and_names_the_line(tmp_path: Path) -> None:
    text = (CHECKOUT / "topologies" / "home_nat.py").read_text()
    before, check, _ = text.partition("def check(run: Run) -> None:\n")
    assert check
    (tmp_path / "mine.py").write_text(before + check + '    assert run.tunnel("laptop").type == "v6v4"\n')
    done = lab("run", "./mine.py", "--set", "delay_ms=0", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "check failed" in done.stdout
    assert "mine.py" in done.stdout
    assert "v6udpv4" in done.stdout
    assert "Traceback" not in done.stderr


def test_shell_reads_commands_from_a_pipe(tmp_path: Path) -> None:
    done = lab("shell", "direct_6in4", cwd=tmp_path, stdin="echo on $LAB_NODE; exit 3\n")
    assert (done.stdout, done.returncode) == ("on laptop\n", 3)
    assert "job control" not in done.stderr


def test_shell_runs_a_command_on_a_node_and_has_its_status(tmp_path: Path) -> None:
    done = lab("shell", "home_nat", "nat", "--set", "delay_ms=0", "--", "sh", "-c", "ip -4 addr; exit 7", cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert "lan0" in done.stdout
    assert "wan0" in done.stdout


HOLD_A_TUNNEL: Final = """
{lab} client {broker} --transport {transport} --tunnel {tunnel} --json >report &
until test -s report; do kill -0 $! || exit 9; sleep 0.05; done
cat report
ip -6 -brief address show dev tsp0 >&2
kill -TERM $!
wait $!; echo "client ended with $?" >&2
ip link show dev tsp0 >&2 && echo "the device is still there" >&2
exit 0
"""


@pytest.mark.parametrize(("transport", "tunnel"), [("udp", "v6udpv4"), ("tcp", "v6v4")])
@pytest.mark.needs("raw")
def test_the_client_of_the_command_line_gets_a_tunnel_and_takes_it_down(
    transport: str, tunnel: str, tmp_path: Path
) -> None:
    script = HOLD_A_TUNNEL.format(
        lab=f"{sys.executable} -P -m lab",
        broker=address_of("broker", "firewall_3653", tmp_path),
        transport=transport,
        tunnel=tunnel,
    )
    done = lab("shell", "firewall_3653", "laptop", "--", "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["outcome"], report["type"], report["transport"]) == ("ready", tunnel, transport), report
    assert report["client_ipv6"] in done.stderr
    assert "client ended with 0" in done.stderr
    assert "the device is still there" not in done.stderr


def test_the_broker_of_the_command_line_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "lab", "broker", "--pool", "2001:db8:e000::/36", "--address"]
    broker = address_of("broker", "direct_6in4", tmp_path)
    done = lab("shell", "direct_6in4", "broker", "--", *command, broker, "--device", "tsp9", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "another program listens there" in done.stderr
    assert "Traceback" not in done.stderr
