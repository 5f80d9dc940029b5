"""Every topology runs on the host kernel and its own check agrees; what they record is complete."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.errors import MissingFeature
from lab.kernel.caps import Capabilities
from lab.run import Run, run
from lab.topology import catalog

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("nft", "nft_nat", "tun_fallback", "raw", "packet"),
    pytest.mark.timeout(240),
]

POLICIES = (
    "allow",
    "drop_udp_3653",
    "reject_udp_3653",
    "drop_tcp_3653",
    "reject_tcp_3653",
    "drop_3653",
    "reject_3653",
    "drop_proto41",
    "reject_proto41",
    "drop_all",
    "reject_all",
)


def undelayed(name: str) -> dict[str, Any]:
    """Parameters that take the delay out, so that the topology runs on a kernel without netem, and in seconds."""
    topology = catalog.load(name)
    return {**topology.short, **({"delay_ms": 0} if "delay_ms" in topology.parameters else {})}


def lessons() -> list[Any]:
    """Every topology, with the programs it needs."""
    return [
        pytest.param(
            info.name, marks=pytest.mark.needs(*(f"program {name}" for name in catalog.load(info.name).programs))
        )
        for info in catalog.list_topologies()
    ]


@pytest.mark.parametrize("name", lessons())
def test_a_topology_does_what_its_lesson_says(name: str, tmp_path: Path) -> None:
    done = run(name, on="host", out=tmp_path / "run", parameters=undelayed(name), seed=1)
    assert done.status == "ok", done.message


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_does_to_each_set_up_what_the_lesson_says(policy: str, tmp_path: Path) -> None:
    done = run("firewall_3653", out=tmp_path / "run", parameters={"policy": policy, "delay_ms": 0}, seed=1)
    assert done.status == "ok", done.message


@pytest.mark.parametrize("mapping", ["EIM", "APDM"])
def test_a_tunnel_works_through_either_mapping(mapping: str, tmp_path: Path) -> None:
    done = run("home_nat", out=tmp_path / "run", parameters={"mapping": mapping, "delay_ms": 0}, seed=1)
    assert done.status == "ok", done.message


@pytest.mark.parametrize("mechanism", ["ANONYMOUS", "PLAIN", "DIGEST-MD5"])
def test_every_mechanism_works_over_tcp(mechanism: str, tmp_path: Path) -> None:
    done = run("tcp_setup", out=tmp_path / "run", parameters={"mechanism": mechanism}, seed=1)
    assert done.status == "ok", done.message


@pytest.fixture(scope="module")
def home_nat(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of home_nat, for the tests that look into its folder."""
    return run("home_nat", out=tmp_path_factory.mktemp("home") / "run", parameters={"delay_ms": 0}, seed=1)


def test_the_run_folder_is_complete(home_nat: Run) -> None:
    facts = json.loads((home_nat.path / "run.json").read_text())
    assert facts["parameters"] == {"delay_ms": 0.0, "mapping": "EIM", "filtering": "APDF"}
    assert facts["seed"] == 1
    assert facts["kernel"]["release"]
    assert facts["capabilities"]["veth"] is True
    setup = home_nat.tunnel("laptop")
    assert list(setup.phases_s) == ["connect", "version", "auth", "create", "accept", "first_packet"]
    assert all(seconds >= 0 for seconds in setup.phases_s.values())
    assert setup.retransmissions == 0
    assert setup.bytes_sent > 0
    assert setup.bytes_received > 0
    assert {file.name for file in home_nat.path.iterdir()} >= {"run.json", "plan.json", "log.jsonl"}
    assert not list(home_nat.path.glob("*.part"))
    assert not (home_nat.path / "job.json").exists()
    assert not (home_nat.path / "result.json").exists()
    lines = [json.loads(line) for line in (home_nat.path / "log.jsonl").read_text().splitlines()]
    assert any(line["node"] == "laptop" for line in lines)
    assert "secret" not in (home_nat.path / "log.jsonl").read_text()


def test_every_interface_has_a_capture_that_tshark_opens(home_nat: Run) -> None:
    tshark = shutil.which("tshark")
    assert tshark is not None, "scripts/test installs tshark"
    captures = sorted(home_nat.path.glob("*.pcap"))
    names = {f"{node['name']}-{iface['name']}" for node in home_nat.facts["nodes"] for iface in node["interfaces"]}
    assert {file.stem for file in captures} == names
    for file in captures:
        done = subprocess.run([tshark, "-nr", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_the_nat_rewrote_the_source_and_the_broker_saw_it(home_nat: Run) -> None:
    assert home_nat.tunnel("laptop").seen_by_broker == home_nat.address("nat", "wan0")
    assert home_nat.address("laptop", "eth0") != home_nat.address("nat", "wan0")


def test_trials_are_kept_apart_and_counted(tmp_path: Path) -> None:
    done = run("direct_6in4", out=tmp_path / "run", trials=2, seed=1)
    assert done.status == "ok", done.message
    assert len(done.trials) == 2
    for trial in done.trials:
        assert trial.tunnel("laptop").type == "v6v4"
        assert trial.wire("laptop", "eth0")["protocol 41"] >= 6


def test_delay_without_netem_stops_before_anything_is_built(tmp_path: Path, caps: Capabilities) -> None:
    if caps["netem"].ok:
        done = run("home_nat", on="host", out=tmp_path / "run", parameters={"delay_ms": 20})
        assert done.status == "ok", done.message
        return
    with pytest.raises(MissingFeature, match="netem.*--set delay_ms=0"):
        run("home_nat", on="host", out=tmp_path / "run", parameters={"delay_ms": 20})
    assert not (tmp_path / "run").exists()


FAILING = '''"""A lesson that fails.

    laptop --- broker
"""
from lab import Network


def build(net: Network) -> None:
    net.link(net.client("laptop"), net.broker("broker"))


async def scenario(net) -> None:
    {scenario}


def check(run) -> None:
    {check}
'''


@pytest.mark.parametrize(
    ("scenario", "check", "status", "message"),
    [
        ("1 / 0", "pass", "error", "failing.py:13: ZeroDivisionError"),
        ('await net["laptpo"].ping("broker")', "pass", "error", "no node 'laptpo'; the nodes are laptop, broker"),
        ('await net["broker"].connect_tunnel("broker")', "pass", "error", "broker is a broker"),
        ('await net["laptop"].connect_tunnel("broker", user="eve", password="x")', "pass", "error", "300"),
        (
            'await net["laptop"].connect_tunnel("broker", tries=3)',
            "pass",
            "error",
            "a tunnel has no option tries; it has connect_timeout_s, first_packet_timeout_s, first_transmissions",
        ),
        ('await net["laptop"].run("ls -l")', "pass", "error", "list of words, such as ['ping', '-c', '3'], and not"),
        ('await net["laptop"].run([])', "pass", "error", "a program is given as a list of words"),
        ('net["laptop"].ping("broker")', "pass", "error", "failing.py:13: ping() needs an await before it"),
        (
            'net["laptop"].connect_tunnel("broker"); 1 / 0',
            "pass",
            "error",
            "ZeroDivisionError: division by zero; failing.py:13: connect_tunnel() needs an await before it",
        ),
        (
            'net["laptop"].connect_tunnel("broker"); net["laptpo"]',
            "pass",
            "error",
            "the nodes are laptop, broker; failing.py:13: connect_tunnel() needs an await before it",
        ),
        (
            'await net["laptop"].connect_tunnel("broker", lan="attic")',
            "pass",
            "error",
            "laptop has no link to 'attic' to announce a prefix on",
        ),
        ("pass", 'assert run.parameters == {"x": 1}', "check failed", "run.parameters is {}"),
        ("pass", 'run.tunnel("laptop")', "check failed", "laptop tried no tunnel"),
    ],
)
def test_a_failing_topology_ends_with_a_message_for_its_author(
    scenario: str, check: str, status: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "failing.py"
    file.write_text(FAILING.format(scenario=scenario, check=check))
    done = run(str(file), out=tmp_path / "run")
    assert done.status == status
    assert message in done.message


def test_a_failed_scenario_leaves_what_the_kernel_looked_like(tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(FAILING.format(scenario="1 / 0", check="pass"))
    run(str(file), out=tmp_path / "run")
    evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())
    assert list(evidence) == ["laptop", "broker"]
    assert {row["iface"] for row in evidence["laptop"]["addresses"]} == {"lo", "eth0"}
    assert evidence["broker"]["routes"]


def test_a_scenario_that_hangs_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(FAILING.format(scenario="await net.sleep(3600)", check="pass"))
    done = run(str(file), out=tmp_path / "run", timeout_s=0.5)
    assert done.status == "error"
    assert "did not end within 0.5 s" in done.message


def test_a_broker_may_listen_on_another_port(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.py"
    text = FAILING.replace('net.broker("broker")', 'net.broker("broker", port=4000)')
    scenario = """for transport in ("udp", "tcp"): await net["laptop"].connect_tunnel("broker", transport=transport)"""
    file.write_text(text.replace("{scenario}", scenario).replace("{check}", "pass"))
    done = run(str(file), on="host", out=tmp_path / "run")
    assert done.status == "ok", done.message
    assert done.wire("laptop", "eth0")["udp 3653 signalling"] == 0
