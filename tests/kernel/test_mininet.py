"""Mininet's nodes and links carry the lab's topologies, to the same conclusions as the lab's own."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from lab.errors import MissingFeature
from lab.kernel import leftovers
from lab.kernel.caps import Capabilities
from lab.run import Run, run
from lab.topology import catalog
from lab.topology.plan import AddLink, Plan, Shape

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("mininet", "nft", "nft_nat", "tun_fallback", "raw", "packet"),
    pytest.mark.timeout(120),
]

CHECKOUT: Final = Path(__file__).parent.parent.parent
NAMES: Final = [info.name for info in catalog.list_topologies()]
LESSONS: Final = [
    pytest.param(name, marks=pytest.mark.needs(*(f"program {program}" for program in catalog.load(name).programs)))
    for name in NAMES
]


QUICK: Final = {"delay_ms": 0, "policy": "reject_3653"}
"""Parameters for a kernel without netem, and so that nobody waits for a packet that was dropped."""


def quick(name: str) -> dict[str, Any]:
    topology = catalog.load(name)
    return {**topology.short, **{key: value for key, value in QUICK.items() if key in topology.parameters}}


def conclusions(done: Run) -> list[tuple[Any, ...]]:
    """What a run found out, without addresses drawn and times measured."""
    found: list[tuple[Any, ...]] = []
    for record in done.facts["trials"][0]["records"]:
        keys = ("kind", "node", "to", "outcome", "type", "transport", "code", "sent", "intact", "policy", "place")
        received = record.get("received", 0)  # how many, if not all: a question of time
        some = "some" if 0 < received < record["sent"] else received
        found.append((*(record.get(key) for key in keys), some))
    return found


@pytest.mark.parametrize("name", LESSONS)
def test_a_topology_of_mininet_comes_to_the_same_conclusions(name: str, tmp_path: Path) -> None:
    ours = run(name, on="host", out=tmp_path / "host", parameters=quick(name), seed=1, capture=False)
    theirs = run(name, on="mininet", out=tmp_path / "mininet", parameters=quick(name), seed=1)
    assert theirs.status == "ok", theirs.message
    assert conclusions(theirs) == conclusions(ours)
    assert theirs.facts["engine"] == "mininet"
    assert theirs.facts["kernel"]["mininet"]


def test_the_inside_of_every_node_is_the_same(tmp_path: Path) -> None:
    """Addresses, routes and rules: what a failed run keeps of both engines differs in numbers of interfaces only."""
    file = tmp_path / "failing.py"
    file.write_text((CHECKOUT / "topologies" / "home_nat.py").read_text().replace("async def scenario", BROKEN))
    seen = {}
    for on in ("host", "mininet"):
        done = run(str(file), on=on, out=tmp_path / on, parameters={"delay_ms": 0}, seed=1)
        assert done.status == "error"
        seen[on] = re.sub(r'"(index|packets|bytes)": \d+', "", (tmp_path / on / "evidence.json").read_text())
        seen[on] = re.sub(r"packets \d+ bytes \d+", "", seen[on])
        assert "192.168.0.2" in seen[on]
    assert seen["host"] == seen["mininet"]


BROKEN: Final = """async def scenario(net: Lab) -> None:
    1 / 0


async def unused"""


def test_a_delay_without_netem_is_an_error_and_no_link_that_does_nothing(tmp_path: Path, caps: Capabilities) -> None:
    if caps["netem"].ok:
        done = run("home_nat", on="mininet", out=tmp_path / "run", parameters={"delay_ms": 20}, seed=1)
        assert done.status == "ok", done.message
        return
    with pytest.raises(MissingFeature, match="netem"):
        run("home_nat", on="mininet", out=tmp_path / "run", parameters={"delay_ms": 20})


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds:g} s"
        time.sleep(0.02)


def shells() -> list[int]:
    """The shells of Mininet nodes called sleeper."""
    return [pid for pid, line in command_lines().items() if "mininet:sleeper" in line]


def command_lines() -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


SWITCHED: Final = '''"""Two clients on a switch.

    ann --- switch --- nat --- broker --- server
    bob --- switch
"""
from lab import Network


def build(net: Network) -> None:
    ann, bob, switch, nat = net.client("ann"), net.client("bob"), net.switch("switch"), net.nat("nat")
    broker = net.broker("broker")
    for node in (ann, bob, nat):
        net.link(node, switch)
    net.link(nat, broker)
    net.link(broker, net.host("server", ipv6_only=True), rate_mbit=20)


async def scenario(net) -> None:
    await net["bob"].connect_tunnel("broker")
    await net["bob"].ping("server")
    await net["ann"].ping("bob", family=4)


def check(run) -> None:
    assert run.ping("bob", "server").received == 3
    assert run.ping("ann", "bob").received == 3
'''


@pytest.mark.needs("tbf")
def test_switches_and_limited_rates_are_as_on_the_host_engine(tmp_path: Path) -> None:
    file = tmp_path / "switched.py"
    file.write_text(SWITCHED)
    done = run(str(file), on="mininet", out=tmp_path / "run", seed=1)
    assert done.status == "ok", done.message
    rows = done.facts["trials"][0]["impairments"]
    assert [row["direction"] for row in rows] == ["broker -> server", "server -> broker"]
    assert all(18 <= row["achieved"]["rate_mbit"] <= 22 for row in rows)
    tested = mn(tmp_path, "--topo", f"tsp,{file}", "--test", "tsp")
    assert tested.returncode == 0, tested.stdout + tested.stderr


SLEEPING: Final = '''"""A lesson in patience.

    sleeper --- broker
"""
from lab import Network


def build(net: Network) -> None:
    net.link(net.client("sleeper"), net.broker("broker"))


async def scenario(net) -> None:
    await net.sleep(3600)


def check(run) -> None:
    pass
'''


def test_a_killed_run_leaves_no_process_of_mininet(tmp_path: Path) -> None:
    file = tmp_path / "sleeping.py"
    file.write_text(SLEEPING)
    command = [sys.executable, "-P", "-m", "lab", "run", str(file), "--on", "mininet", "--out", str(tmp_path / "run")]
    running = subprocess.Popen(command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
    try:
        until(lambda: bool(shells()), "a Mininet node")
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    until(lambda: not shells(), "the end of every Mininet node")


def test_a_script_of_a_student_has_the_lab_s_boxes(tmp_path: Path) -> None:
    told = script((CHECKOUT / "examples" / "mininet_script.py").read_text(), tmp_path)
    assert "tunnel: v6udpv4 seen by the broker as 192.0.2.1" in told
    assert "ping: 3 of 3 answered; back: 3 of 3" in told
    assert "with the filter: unreachable" in told
    assert int(re.findall(r"stopped: (\d+)", told)[0]) >= 1
    assert "'rate_mbit': 100" in told


def script(text: str, folder: Path) -> str:
    """What a Mininet script says; it must end well."""
    file = folder / "script.py"
    # Mininet raises the machine's own limits when it starts as root: not for a test.
    file.write_text("import lab.mininet, mininet.net\nmininet.net.Mininet.inited = True\n" + text)
    done = subprocess.run(
        [sys.executable, "-P", str(file)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


IMPAIRED: Final = """
from mininet.link import Link, TCLink
from mininet.net import Mininet
from lab.errors import LabError
from lab.mininet import CheckedLink, Host, check_links
try:
    net = Mininet(controller=None, link={link})
    a, b = (net.addHost(name, cls=Host) for name in "ab")
    net.addLink(a, b, {parameters})
    net.start()
    print("rows", check_links(net))
except LabError as exc:
    print(type(exc).__name__, exc)
finally:
    net.stop()
"""


@pytest.mark.parametrize("link", ["TCLink", "CheckedLink"])
def test_an_impairment_that_mininet_did_not_make_is_an_error(link: str, tmp_path: Path, caps: Capabilities) -> None:
    told = script(IMPAIRED.format(link=link, parameters='delay="20ms"'), tmp_path)
    if caps["netem"].ok:
        assert "'delay_ms': 20" in told
    else:
        assert re.search("MissingFeature .*netem.*delay=20ms", told)


def test_a_link_that_ignores_its_parameters_is_an_error(tmp_path: Path) -> None:
    told = script(IMPAIRED.format(link="Link", parameters="bw=10"), tmp_path)
    assert re.search("MissingFeature .* on a a-eth0, which was asked for bw=10", told)


@pytest.mark.parametrize("wrong", ["bw=5000", "loss=120", 'delay="soon"', 'jitter="5ms"'])
def test_a_parameter_that_stock_mininet_leaves_out_is_an_error(wrong: str, tmp_path: Path) -> None:
    told = script(IMPAIRED.format(link="CheckedLink", parameters=wrong), tmp_path)
    assert told.startswith("UsageError a a-eth0: " + wrong.replace('"', "").split("=")[0]) or "is no time" in told


def mn(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Mininet's own program with lab/mn.py, run where it cannot touch the machine's network or /tmp."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "lab", "mn", *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def topo(name: str, kind: str = "tsp") -> str:
    settings = "".join(f",{key}={value}" for key, value in quick(name).items())
    return (f"tsp,{name}" if kind == "tsp" else name) + settings


@pytest.mark.parametrize("name", NAMES)
def test_every_topology_is_one_of_mininet(name: str) -> None:
    from lab.mininet import TspTopo

    made = TspTopo(name, **quick(name))
    assert set(made.nodes()) == {node.name for node in made.plan.nodes}
    assert len(made.links()) == sum(isinstance(step, AddLink) for step in made.plan.steps)


@pytest.mark.parametrize("name", ["home_nat", "firewall_3653", "routed_lan"])
def test_mn_runs_scenario_and_check_of_a_topology(name: str, tmp_path: Path) -> None:
    done = mn(tmp_path, "--topo", topo(name), "--test", "tsp")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "result: ok" in done.stdout + done.stderr  # where Mininet prints
    (folder,) = (tmp_path / "runs").iterdir()
    assert Run.load(folder).status == "ok"
    assert any(folder.glob("*.pcap"))


def test_mn_has_the_commands_of_the_lab(tmp_path: Path) -> None:
    commands = """
        laptop ping -c 2 server
        tunnel laptop up
        tunnel laptop show
        laptop ping -c 2 server
        server ip -brief address
        counters broker
        tunnel laptop down
        policy firewall reject_udp_3653
        policy firewall
        tunnel laptop up transport=udp tunnel=v6udpv4
        counters firewall
        policy firewall reject_everything
        explain laptop broker udp=3653
        tunnel server up
        impairments
        pingall
    """
    (tmp_path / "commands").write_text("\n".join(line.strip() for line in commands.strip().splitlines()) + "\n")
    done = mn(tmp_path, "--topo", topo("firewall_3653", "own"), "-v", "output", "--test", "none", "--post", "commands")
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "laptop and server have no address family in common" in told
    assert re.search(r"laptop: v6v4 over udp in .* ms, 2001:db8:f", told)
    assert re.search(r"tunnel up, 2001:db8:f", told)
    assert re.search(r"2 packets transmitted, 2 received", told)
    assert re.search(r"^eth0\S* +UP +2001:db8:", told, re.MULTILINE)
    assert re.search(r"firewall: reject_udp_3653", told)
    assert re.search(r"laptop: unreachable after", told)
    assert re.search(r"^reject_udp_3653 +[1-9]", told, re.MULTILINE)
    assert "there is no firewall policy 'reject_everything'" in told
    assert "'server' is no client; there is laptop" in told
    assert re.search(r"^.*UDP.*3653.*$", told, re.MULTILINE)
    assert "no link was asked" in told
    assert re.search(r"server -> broker - - -|server -> broker", told)


def test_mn_says_so_when_it_cannot(tmp_path: Path) -> None:
    done = mn(tmp_path, "--topo", "tsp,home_nut", "--test", "tsp")
    assert done.returncode == 1
    assert "home_nut" in done.stdout + done.stderr


def test_a_network_of_stock_mininet_has_bridges_without_brctl(tmp_path: Path) -> None:
    ask = "exec 3<>/dev/udp/10.0.0.2/9; until ip neigh show 10.0.0.2 | grep REACHABLE; do echo hi >&3; sleep 0.1; done"
    commands = tmp_path / "commands"
    commands.write_text(f"h1 timeout 20 bash -c '{ask}'\nsh ip -brief link\n")
    done = mn(tmp_path, "--topo", "linear,2", "-v", "output", "--test", "none", "--post", "commands")
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert re.search(r"dev h1-eth0 lladdr \S+ REACHABLE", told)
    assert not re.search(r"^(s1|s2|br0)", told, re.MULTILINE), "a switch is in no network but its own"


KILLED: Final = """
from mininet.net import Mininet
net = Mininet(controller=None)
h1, h2, s1 = net.addHost("h1"), net.addHost("h2"), net.addHost("s1", inNamespace=False, ip=None)
net.addLink(h1, s1)
net.start()
left = h1.popen("sleep 300")
h2.cmd("nohup sleep 301 > /dev/null 2>&1 &")
print("up", flush=True)
left.wait()
"""


def test_what_a_killed_stock_mininet_left_is_named_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "stock.py"
    file.write_text("import lab.mininet, mininet.net\nmininet.net.Mininet.inited = True\n" + KILLED)
    before = {thing.remove for thing in leftovers.find()}
    running = subprocess.Popen(
        [sys.executable, "-P", str(file)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        assert {thing.remove for thing in leftovers.find()} == before, "a Mininet that runs is no leftover"
    finally:
        running.kill()
        running.communicate()

    def left() -> list[leftovers.Leftover]:
        return [thing for thing in leftovers.find() if thing.remove not in before]

    def known() -> bool:
        return {thing.what.partition(" on ")[2] or thing.what for thing in left()} == {
            "h1: sleep 300",
            "a node that is gone: sleep 301",
            "interface s1-eth0",
        }

    until(known, "all that was left, and nothing else")
    for thing in sorted(left(), key=lambda thing: thing.remove.startswith("ip")):
        subprocess.run(thing.remove.split(), check=False)  # a link goes with its other end
    until(lambda: not left(), "its removal")


def test_a_switch_that_was_left_is_named_and_removed() -> None:
    subprocess.run("ip link add s77 type bridge".split(), check=True)
    (thing,) = [thing for thing in leftovers.find() if "s77" in thing.what]
    subprocess.run(thing.remove.split(), check=True)
    assert not [thing for thing in leftovers.find() if "s77" in thing.what]


def impaired(**asked: float) -> Plan:
    mac = "02:00:00:00:01:10"
    return Plan("x", (), (AddLink("a", "eth0", 2, mac, "b", "eth0", 2, mac), Shape("a", "eth0", 2, **asked)))


def test_a_shape_becomes_the_parameters_of_a_tclink() -> None:
    from lab.mininet.plans import link_parameters

    plan = impaired(delay_ms=20, jitter_ms=2.5, loss_pct=1, rate_mbit=10)
    [(_, parameters)] = link_parameters(plan)
    assert parameters["params1"] == {
        "delay": "20ms",
        "jitter": "2.5ms",
        "loss": 1,
        "bw": 10,
        "max_queue_size": 20_000,
    }
    assert parameters["params2"] == {}


@pytest.mark.parametrize("asked", ["duplicate_pct", "reorder_pct"])
def test_what_a_tclink_cannot_do_is_an_error_before_anything_is_built(asked: str) -> None:
    from lab.engines.mininet import require
    from lab.mininet.plans import link_parameters

    for ask in (require, lambda plan: list(link_parameters(plan))):
        with pytest.raises(MissingFeature, match="doubled and reordered packets on Mininet's links"):
            ask(impaired(**{asked: 1.0, "delay_ms": 5}))


def test_ctrl_c_ends_a_command_on_a_node_and_not_the_network(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-P", "-m", "lab", "mn", "--topo", topo("direct_6in4")]
        os.chdir(tmp_path)
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(CHECKOUT)})
    said = b""

    def comes(text: bytes, seconds: float) -> bool:
        nonlocal said
        deadline = time.monotonic() + seconds
        while text not in said:
            if not select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            said += os.read(terminal, 4096)
        said = said.partition(text)[2]
        return True

    def wait_for(text: bytes) -> None:
        assert comes(text, 40), said

    try:
        wait_for(b"mininet> ")
        os.write(terminal, b"laptop expr 6 '*' 7 && sleep 300\n")
        wait_for(b"42")  # which the terminal did not merely repeat
        for _ in range(10):  # as a person would: Mininet's own code says that it may miss one
            os.write(terminal, b"\x03")
            if comes(b"mininet> ", 3):
                break
        os.write(terminal, b"tunnel laptop up\n")
        wait_for(b"v6v4 over udp")
        os.write(terminal, b"exit\n")
        wait_for(b"completed in")
        wait_for(b"seconds")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        os.close(terminal)  # hangs up on what is still there
