"""Open vSwitch is used for switches where its daemons can make bridges, and only there.

The daemons are of this test's own, in its namespaces, with the datapath that this kernel has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from lab.errors import UsageError
from lab.kernel import leftovers, open_vswitch
from lab.run import Run

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("mininet", "program ovs-vswitchd", "tun", "tun_fallback", "raw", "packet", "tbf"),
    pytest.mark.timeout(120),
]

CHECKOUT: Final = Path(__file__).parent.parent.parent
SCHEMA: Final = "/usr/share/openvswitch/vswitch.ovsschema"


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds:g} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of ovsdb-server's and ovs-vswitchd's sockets."""
    folder = tmp_path_factory.mktemp("ovs")
    database, sock = str(folder / "conf.db"), folder / "db.sock"
    environment = {**os.environ, "OVS_RUNDIR": str(folder)}
    subprocess.run(["ovsdb-tool", "create", database, SCHEMA], check=True, capture_output=True)
    with (folder / "log").open("w") as log:

        def start(*command: str) -> subprocess.Popen[bytes]:
            words = [*command, "--unixctl", str(folder / f"{command[0]}.ctl"), "-vconsole:warn"]
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

        started = [start("ovsdb-server", database, f"--remote=punix:{sock}")]
        try:
            until(sock.exists, "the socket of ovsdb-server")
            started.append(start("ovs-vswitchd", f"unix:{sock}"))
            yield folder
        finally:
            for daemon in reversed(started):
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(20)


@pytest.fixture
def here(daemons: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where those daemons are what this process finds; not asked before."""
    monkeypatch.setenv("OVS_RUNDIR", str(daemons))
    open_vswitch.find.cache_clear()
    yield daemons
    open_vswitch.find.cache_clear()


def mn(folder: Path, *arguments: str, namespaces: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Mininet's own program with lab/mn.py in the namespaces of the daemons, or new ones."""
    command = [*namespaces, sys.executable, "-P", "-m", "lab.mininet", "/usr/bin/mn"]
    return subprocess.Popen(
        [*command, "--custom", str(CHECKOUT / "lab" / "mn.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def bridges() -> list[str]:
    return sorted(open_vswitch.vsctl("list-br").stdout.split())


def interfaces() -> str:
    return subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout


SWITCHED: Final = '''"""Every kind of packet crosses a switch, one with a name that leaves no room.

    ann --- west --- broker --- eastern-switch --- server
    bob --- west                eastern-switch --- attic --- mirror
"""
from lab import Network


def build(net: Network) -> None:
    west, east, broker = net.switch("west"), net.switch("eastern-switch"), net.broker("broker")
    for name in ("ann", "bob"):
        net.link(net.client(name), west)
    net.link(west, broker, rate_mbit=50)
    net.link(broker, east)
    net.link(net.host("server", ipv6_only=True), east)
    net.link(east, net.switch("attic"))
    net.link(net.host("mirror", ipv6_only=True), "attic")


async def scenario(net) -> None:
    await net["ann"].connect_tunnel("broker", tunnel="v6v4")
    await net["bob"].connect_tunnel("broker", tunnel="v6udpv4")
    await net["server"].ping("mirror")
    for name in ("ann", "bob"):
        await net[name].ping("server")
        await net[name].transfer("mirror", size=200_000)
    await net["ann"].ping("bob", family=4)
    await net["server"].run(["ip", "-6", "neighbor"])


def check(run) -> None:
    assert [run.tunnel(name).type for name in ("ann", "bob")] == ["v6v4", "v6udpv4"]
    assert run.wire("ann", "eth0")["protocol 41"] > 100
    assert run.ping("server", "mirror").received == 3
    assert run.ping("ann", "bob").received == 3
    for name in ("ann", "bob"):
        assert run.ping(name, "server").received == 3
        assert run.transfer(name, "mirror").intact
    # Found by multicast, and not entered beforehand.
    (told,) = run.commands("server")
    mirror = run.ping("server", "mirror").address
    assert any(line.startswith(f"{mirror} ") and "lladdr" in line and "PERMANENT" not in line
               for line in told.stdout.splitlines()), told.stdout
'''


def test_all_traffic_of_a_topology_crosses_bridges_of_open_vswitch(here: Path, tmp_path: Path) -> None:
    assert open_vswitch.find().datapath in ("kernel", "user"), open_vswitch.find().why
    (tmp_path / "switched.py").write_text(SWITCHED)
    (tmp_path / "commands").write_text("sh ovs-vsctl list-br\ndpctl dump-flows\n")
    before = interfaces()
    running = mn(tmp_path, "--topo", "tsp,switched.py", "--test", "tsp", "--post", "commands")
    told, _ = running.communicate("", timeout=100)
    assert running.returncode == 0, told
    assert told.count("*** Switches are of Open vSwitch: Open vSwitch made a bridge on its ") == 1
    assert "result: ok" in told
    assert "\nattic\neastern-switch\nwest\n" in told
    assert told.count("actions=NORMAL") == 3
    (folder,) = (tmp_path / "runs").iterdir()
    rows = Run.load(folder).facts["trials"][0]["impairments"]
    assert [row["direction"] for row in rows] == ["west -> broker", "broker -> west"]
    assert bridges() == []
    assert interfaces() == before


def test_what_a_killed_mn_left_in_open_vswitch_is_named_and_removed(here: Path, tmp_path: Path) -> None:
    (tmp_path / "switched.py").write_text(SWITCHED)
    before = interfaces()
    others = leftovers.find()
    killed = mn(tmp_path, "--topo", "tsp,switched.py")
    try:
        until(lambda: len(bridges()) == 3 and "west-eth2" in interfaces(), "all bridges")
        assert leftovers.find() == [], "a Mininet that runs is no leftover"
        second = mn(tmp_path, "--topo", "tsp,switched.py", "--test", "none")
        told, _ = second.communicate("", timeout=60)
        assert second.returncode == 1, told
        assert "Open vSwitch has a bridge attic already" in told
        assert bridges() == ["attic", "eastern-switch", "west"], "one Mininet does not remove the bridge of another"
    finally:
        killed.kill()
        killed.communicate()

    def left() -> set[str]:
        return {thing.what for thing in leftovers.find() if thing not in others}

    # Links to a node go with its network; those between two switches have both ends here.
    names = {"Open vSwitch bridge attic", "Open vSwitch bridge eastern-switch", "Open vSwitch bridge west"}
    until(lambda: len(left()) == 5 and names < left(), "all that is left, and nothing else")
    assert {what.partition(" ")[0] for what in left() - names} == {"interface"}
    for thing in leftovers.find():
        if thing not in others:
            subprocess.run(thing.remove.split(), check=False)  # a link goes with its other end
    assert not left()
    assert bridges() == []
    until(lambda: interfaces() == before, "the end of every interface")


def test_a_switch_that_is_called_as_an_interface_is_refused(here: Path) -> None:
    from lab.mininet import OpenVSwitch

    subprocess.run("ip link add busy type bridge".split(), check=True)
    try:
        with pytest.raises(UsageError, match="there is an interface busy"):
            OpenVSwitch("busy")
    finally:
        subprocess.run("ip link del busy".split(), check=True)


@pytest.mark.parametrize("namespaces", ["--net", "--net --pid --fork --mount-proc --kill-child"])
def test_daemons_in_another_network_are_left_alone(namespaces: str, here: Path) -> None:
    ask = "from lab.kernel import open_vswitch; print(open_vswitch.find())"
    done = subprocess.run(
        ["unshare", *namespaces.split(), sys.executable, "-P", "-c", ask],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "datapath=None, why='Open vSwitch runs in another network namespace than this'" in done.stdout


def test_a_stock_switch_in_namespaces_of_its_own_does_not_reach_daemons_outside(here: Path, tmp_path: Path) -> None:
    private = ("unshare", *"--net --pid --fork --mount-proc --kill-child".split())
    running = mn(tmp_path, "--switch", "ovs", "--controller", "none", "--test", "none", namespaces=private)
    told, _ = running.communicate("", timeout=60)
    assert running.returncode == 1, told
    assert "Error connecting to ovs-db" in told
    assert "/nonexistent/db.sock" in told


def test_without_daemons_switches_are_linux_bridges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lab.mininet import LinuxBridge, default_switch

    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
    open_vswitch.find.cache_clear()
    default_switch.cache_clear()
    try:
        assert default_switch() is LinuxBridge
        assert "does not answer at" in open_vswitch.find().why
    finally:
        open_vswitch.find.cache_clear()
        default_switch.cache_clear()


def test_a_daemon_that_does_nothing_is_not_used(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ovsdb-server takes the bridge in, and ovs-vswitchd never makes it."""
    pid = int(subprocess.run(["pgrep", "-f", f"ovs-vswitchd.*{here}"], capture_output=True, check=True).stdout)
    os.kill(pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(open_vswitch, "_PATIENCE_S", 1)
            found = open_vswitch.find()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (found.datapath, found.installed) == (None, True)
    assert "does not answer" in found.why
    until(lambda: bridges() == [], "the end of the bridge")
