"""Mininet's nodes and links carry the lab's topologies, to the same conclusions as the lab's own."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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

QUICK: Final = {"delay_ms": 0, "policy": "reject_3653"}
"""Parameters for a kernel without netem, and so that nobody waits for a packet that was dropped."""


def quick(name: str) -> dict[str, Any]:
    topology = catalog.load(name)
    return {**topology.short, **{key: value for key, value in QUICK.items() if key in topology.parameters}}


def test_the_inside_of_every_node_is_the_same(tmp_path: Path) -> None:
    """Addresses, routes and rules: what a failed run keeps of both engines differs in numbers of interfaces only."""
    file = tmp_path / "failing.py"
    file.write_text((CHECKOUT / "topologies" / "home_nat.py").read_text().replace("async def scenario", BROKEN))

    def failed(on: str) -> str:
        return run(str(file), on=on, out=tmp_path / on, parameters={"delay_ms": 0}, seed=1).status

    engines = ("host", "mininet")
    with ThreadPoolExecutor() as at_once:
        assert list(at_once.map(failed, engines)) == ["error", "error"]
    seen = {}
    for on in engines:
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


@pytest.mark.parametrize("verb", ["run", "mn"])
def test_what_is_killed_of_the_lab_leaves_no_process_of_mininet(verb: str, tmp_path: Path) -> None:
    file = tmp_path / "sleeping.py"
    file.write_text(SLEEPING)
    words = {"run": (str(file), "--on", "mininet", "--out", str(tmp_path / "run")), "mn": ("--topo", f"tsp,{file}")}
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "lab", verb, *words[verb]],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: bool(shells()), "a Mininet node")
    finally:
        running.kill()
        running.communicate()
    until(lambda: not shells(), "the end of every Mininet node")


def test_a_script_of_a_student_has_the_lab_s_boxes(tmp_path: Path) -> None:
    told = script((CHECKOUT / "examples" / "mininet_script.py").read_text(), tmp_path)
    assert "tunnel: v6udpv4 seen by the broker as 192.0.2.1" in told
    assert "ping: 3 of 3 answered; back: 3 of 3" in told
    assert "with the filter: unreachable" in told
    assert int(re.findall(r"stopped: (\d+)", told)[0]) >= 1
    assert "'rate_mbit': 100" in told


IN_A_SCRIPT: Final = """
from mininet.net import Mininet
from lab.errors import UsageError
from lab.mininet import TspTopo
net = Mininet(topo=TspTopo("moving_client", delay_ms=0), controller=None)
net.start()
laptop, broker, server, campus = net.get("laptop", "broker", "server", "campus")
print(laptop.connect_tunnel(broker, user="ann", password="secret").type, laptop.ping(server).received)
print(laptop.IP(), laptop.move_to(campus).address == laptop.IP(), laptop.is_away_from("home"))
print(laptop.connect_tunnel(broker, user="ann", password="secret").type, laptop.ping(server).received)
print(laptop.cmd("ip -4 -brief address show up scope global").split()[2:])
for mistake in (lambda: server.connect_tunnel(broker), lambda: laptop.move_to(server)):
    try:
        mistake()
    except UsageError as exc:
        print(exc)
net.stop()
"""


def test_a_topology_in_a_script_has_nodes_with_tunnels(tmp_path: Path) -> None:
    told = script(IN_A_SCRIPT, tmp_path)
    assert told.splitlines() == [
        "v6udpv4 3",
        "192.168.0.2 True True",
        "v6v4 3",
        "['192.0.2.2/28']",
        "server is a host; connect_tunnel works on a client only",
        "laptop cannot move to server: it can be at home, cafe, campus (net.link(..., plugged=False))",
    ]


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


WRONG: Final = {
    "bw": "5000",
    "loss": "120",
    "duplicate": "-1",
    "delay": '"soon"',
    "jitter": '"5ms"',
    "reorder": "25",
}
IMPAIRED: Final = {
    "TCLink": 'TCLink, delay="20ms"',
    "CheckedLink": 'CheckedLink, delay="20ms"',
    "doubled": "CheckedLink, duplicate=10",
    "Link": "Link, bw=10",
    **{name: f"CheckedLink, {name}={value}" for name, value in WRONG.items()},
}
IMPAIR: Final = """
from mininet.link import Link, TCLink
from mininet.net import Mininet
from lab.errors import LabError
from lab.mininet import CheckedLink, Host, check_links

def told(link, **parameters):
    net = Mininet(controller=None, link=link)
    try:
        a, b = (net.addHost(name, cls=Host) for name in "ab")
        net.addLink(a, b, **parameters)
        net.start()
        return f"rows {check_links(net)}"
    except LabError as exc:
        return f"{type(exc).__name__} {exc}"
    finally:
        net.stop()
"""


@pytest.fixture(scope="module")
def impaired_links(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a script is told of each link of IMPAIRED, by its name there: rows, or the error."""
    lines = "".join(f"print({name!r}, told({how}), sep=': ')\n" for name, how in IMPAIRED.items())
    said = script(IMPAIR + lines, tmp_path_factory.mktemp("impaired"))
    return dict(line.split(": ", 1) for line in said.splitlines())


@pytest.mark.parametrize(
    ("link", "asked", "achieved"),
    [
        ("TCLink", "delay=20ms", "'delay_ms': 20"),
        ("CheckedLink", "delay=20ms", "'delay_ms': 20"),
        ("doubled", "duplicate=10", "'duplicate_pct': 10"),
    ],
)
def test_an_impairment_that_mininet_did_not_make_is_an_error(
    link: str, asked: str, achieved: str, impaired_links: dict[str, str], caps: Capabilities
) -> None:
    if caps["netem"].ok:
        assert achieved in impaired_links[link]
    else:
        assert re.search(f"MissingFeature .*netem.*{asked}", impaired_links[link])


def test_a_link_that_ignores_its_parameters_is_an_error(impaired_links: dict[str, str]) -> None:
    assert re.search("MissingFeature .* on a a-eth0, which was asked for bw=10", impaired_links["Link"])


@pytest.mark.parametrize("wrong", WRONG)
def test_a_parameter_that_stock_mininet_leaves_out_is_an_error(wrong: str, impaired_links: dict[str, str]) -> None:
    assert re.match(rf"UsageError a a-eth0: ({wrong}=|'soon' is no time)", impaired_links[wrong])


def mn(folder: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Mininet's own program with lab/mn.py, run where it cannot touch the machine's network or /tmp."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "lab", "mn", *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        cwd=folder,
        input=typed,
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


@pytest.mark.parametrize("name", ["home_nat", "routed_lan"])
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
        link laptop firewall down
        link internet broker down
        link laptop firewall up
        link internet broker up
        tunnel laptop up
        laptop echo "two  blanks"
        laptop ping -c two internet
        tunnel laptop up spell=wrong
        tunnel laptop down
        policy firewall reject_udp_3653
        policy firewall
        tunnel laptop up transport=udp tunnel=v6udpv4
        counters firewall
        policy firewall reject_everything
        explain laptop broker udp=3653
        explain laptop broker udp=3653 size=600 ttl=1
        explain laptop broker udp=3653 ttl=few
        tunnel laptop up first_packet_timeout_s=soon
        tunnel server up
        impairments
        move laptop firewall
        pingall
    """
    done = mn(tmp_path, "--topo", topo("firewall_3653", "own"), "-v", "output", typed=textwrap.dedent(commands[1:]))
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "laptop and server have no address family in common" in told
    assert len(re.findall(r"laptop: v6v4 over udp in .* ms, 2001:db8:f", told)) == 2, "also after its cable was pulled"
    assert "two  blanks" in told
    assert "invalid literal" in told
    assert "*** a tunnel has no option spell; it has" in told
    assert re.search(r"tunnel up, 2001:db8:f", told)
    assert re.search(r"2 packets transmitted, 2 received", told)
    assert re.search(r"^eth0\S* +UP +2001:db8:", told, re.MULTILINE)
    assert re.search(r"firewall: reject_udp_3653", told)
    assert re.search(r"laptop: unreachable after", told)
    assert re.search(r"^reject_udp_3653 +[1-9]", told, re.MULTILINE)
    assert "there is no firewall policy 'reject_everything'" in told
    assert "'server' is no client; there is laptop" in told
    assert re.search(r"^.*UDP.*3653.*$", told, re.MULTILINE)
    assert "no hops left to live" in told
    assert "*** ttl=few: ttl is a whole number" in told
    assert "*** first_packet_timeout_s=soon: first_packet_timeout_s is a number" in told
    assert "no link was asked" in told
    assert "no client of this network moves" in told
    assert re.search(r"server -> broker - - -", told)


ROAMING: Final = '''"""A laptop between two places, and a machine that stays.

    laptop --- home --- internet --- broker
    laptop --- street --- internet
    desktop --- home
"""
from lab import Network


def build(net: Network) -> None:
    laptop, desktop, home, street = net.client("laptop"), net.client("desktop"), net.nat("home"), net.router("street")
    net.link(laptop, home)
    net.link(laptop, street, rate_mbit=20, plugged=False)
    net.link(desktop, home)
    net.link(home, net.router("internet"))
    net.link(street, "internet")
    net.link("internet", net.broker("broker"))


async def scenario(net) -> None:
    await net["laptop"].move_to("street")
    await net["laptop"].ping("broker")


def check(run) -> None:
    assert run.ping("laptop", "broker").received == 3
'''


ROAM: Final = """
    laptop echo == first
    move
    laptop ip -4 -brief address show up scope global
    laptop ip route
    laptop ping -c 1 broker
    impairments
    laptop echo == moved
    tunnel laptop up
    move laptop street
    laptop ip -4 -brief address show up scope global
    laptop ip route
    impairments
    explain laptop broker udp=3653
    tunnel laptop up
    tunnel laptop show
    desktop ping -c 1 laptop
    laptop echo == pulled
    link laptop street down
    laptop ip route
    link street laptop up
    laptop ip -4 -brief address show up scope global
    laptop ip route
    broker ping -c 1 laptop
    laptop echo == left
    link laptop home up
    laptop ip -4 -brief address show up scope global
    link home laptop down
    move laptop home
    move laptop
    laptop echo == back
    link laptop home up
    tunnel laptop up keepalive_interval_s=1
    move laptop home
    laptop ip -4 -brief address show up scope global
    laptop ip route
    py laptop.wait_tunnel_lost(20)
    tunnel laptop show
    laptop echo == wrong
    move laptop internet
    move desktop
    move broker
    move laptop home again
"""


@pytest.mark.needs("tbf")
def test_mn_has_a_client_in_one_place_at_a_time_and_moves_it(tmp_path: Path) -> None:
    (tmp_path / "roaming.py").write_text(ROAMING)
    (tmp_path / "roam").write_text(textwrap.dedent(ROAM[1:]))
    done = mn(tmp_path, "--topo", "tsp,roaming.py", "--test", "tsp", "--post", "roam", "-v", "output")
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "result: ok" in told
    part = dict(section.split("\n", 1) for section in told.split("== ")[1:])
    home = "eth0", "192.168.0.2", "192.168.0.1"
    street = "eth1", "192.0.2.2", "192.0.2.1"

    def is_at(place: tuple[str, str, str], said: str) -> bool:
        addresses = re.findall(r"^(eth\d)\S* +UP +([\d.]+)/\d+ *$", said, re.MULTILINE)
        gateways = re.findall(r"^default via (\S+) dev (\S+)", said, re.MULTILINE)
        return addresses == [place[:2]] and gateways == [(place[2], place[0])]

    assert is_at(home, part["first"]), part["first"]
    assert "laptop: at home, 192.168.0.2; it can move to street" in part["first"]
    assert "1 packets transmitted, 1 received" in part["first"]
    assert "laptop -> street: asked {'rate_mbit': 20.0}, is down or unplugged" in part["first"]

    assert is_at(street, part["moved"]), part["moved"]
    assert "laptop: at street, 192.0.2.2; its tunnel does not know, for another: tunnel laptop up" in part["moved"]
    assert re.search("laptop -> street: asked .*, does {'rate_mbit': ", part["moved"])
    assert re.search(r"UDP port 3653 from laptop to broker: 192\.0\.2\.2:\d+ > .*\n\n.*laptop .*eth1.*", part["moved"])
    assert re.findall(r"laptop: (v6\w+) over udp in .*(2001:\S+)\nlaptop: tunnel up, \2", part["moved"])[0][0] == "v6v4"
    assert "1 packets transmitted, 1 received" in part["moved"]

    assert is_at(street, part["pulled"]), "its first place's default route is not back"
    assert "1 packets transmitted, 1 received" in part["pulled"]
    assert "eth1" in part["left"]
    assert "eth0" not in part["left"], "a cable that is not plugged in there"
    assert "*** the link from laptop to home is down; first: link laptop home up" in part["left"]
    assert "laptop: at street, 192.0.2.2; it can move to home" in part["left"]

    assert is_at(home, part["back"]), part["back"]
    assert re.search("laptop: tunnel 2001:db8:.* lost, its keepalives are not answered", part["back"])
    assert "*** laptop cannot move to internet: it can be at home, street" in part["wrong"]
    assert "*** desktop does not move, its links are all plugged in; there moves laptop" in part["wrong"]
    assert "*** 'broker' is no client; there is desktop, laptop" in part["wrong"]
    assert "*** move CLIENT PLACE\n" in part["wrong"]


@pytest.mark.needs("program mn")
def test_mn_runs_with_the_python_of_the_system(tmp_path: Path) -> None:
    """As root types it: with the packages of the lab's environment, if that is of the same version of Python."""
    command = ["mn", "--custom", str(CHECKOUT / "lab" / "mn.py"), "--topo", "tsp,direct_6in4", "--test", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    asked = subprocess.run(["/usr/bin/python3", "-V"], capture_output=True, text=True, check=True).stdout
    if asked.split()[1].split(".")[:2] == [str(number) for number in sys.version_info[:2]]:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "*** Configuring hosts\nbroker internet laptop server" in done.stdout + done.stderr
    else:
        assert done.returncode == 1
        assert "lacks an environment of the lab for python" in done.stderr


def test_mn_says_so_when_it_cannot(tmp_path: Path) -> None:
    done = mn(tmp_path, "--topo", "tsp,home_nut", "--test", "tsp")
    assert done.returncode == 1
    assert "home_nut" in done.stdout + done.stderr


def test_a_network_of_stock_mininet_has_bridges_without_brctl(tmp_path: Path) -> None:
    ask = "exec 3<>/dev/udp/10.0.0.2/9; until ip neigh show 10.0.0.2 | grep REACHABLE; do echo hi >&3; sleep 0.1; done"
    commands = tmp_path / "commands"
    commands.write_text(f"h1 timeout 20 bash -c '{ask}'\nsh ip -brief link\n")
    done = mn(tmp_path, "--topo", "linear,2", "--test", "none", "--post", "commands")
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert re.search(r"dev h1-eth0 lladdr \S+ REACHABLE", told)
    seen = re.search(r"^(s1|s2|br0)\S* +(UP|DOWN|UNKNOWN)", told, re.MULTILINE)
    assert seen is None, "a switch is in no network but its own"
    assert told.count("*** Switches are Linux bridges: Open vSwitch ") == 1


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


def test_ports_in_the_network_of_the_machine_have_names_of_their_own() -> None:
    from lab import Network
    from lab.mininet.plans import link_parameters, with_names_for_all
    from lab.topology.planner import make_plan

    net = Network("switched")
    for end, switch in enumerate(("west", "eastern-switch", "eastern-switche")):
        for host in range(11):
            net.link(net.switch(switch) if host == 0 else switch, net.host(f"h{end}-{host}"))
        if end:
            net.link("west", switch, delay_ms=5)
    plan = with_names_for_all(make_plan(net))
    ports = {switch: [iface.name for iface in plan.node(switch).interfaces] for switch in ("west", "eastern-switch")}
    assert ports["west"][:2] == ["west-eth0", "west-eth1"]
    ends = [
        (step, end) for step, _ in link_parameters(plan) for end in ((step.a, step.a_iface), (step.b, step.b_iface))
    ]
    names = [name for _, (node, name) in ends if plan.node(node).kind == "switch"]
    assert len(set(names)) == len(names) == 3 * 11 + 4
    assert max(map(len, names)) == 15
    shaped = {(step.node, step.iface) for step in plan.steps if isinstance(step, Shape)}
    assert len(shaped) == 4
    assert all(iface in names for _, iface in shaped)


def test_a_shape_becomes_the_parameters_of_a_tclink() -> None:
    from lab.mininet.plans import link_parameters

    plan = impaired(delay_ms=20, jitter_ms=2.5, loss_pct=1, duplicate_pct=2, reorder_pct=25, rate_mbit=10)
    [(_, parameters)] = link_parameters(plan)
    asked = {"delay": "20ms", "jitter": "2.5ms", "loss": 1, "duplicate": 2, "reorder": 25, "bw": 10}
    assert (parameters["params1"], parameters["params2"]) == (asked, {})


def test_ctrl_c_ends_a_command_on_a_node_and_not_the_network(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-P", "-m", "lab", "mn", "--topo", topo("direct_6in4")]
        os.chdir(tmp_path)
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(CHECKOUT)})
    said = b""

    def wait_for(text: bytes) -> None:
        nonlocal said
        deadline = time.monotonic() + 75
        while text not in said:
            patience_s = max(0.0, deadline - time.monotonic())
            assert select.select([terminal], [], [], patience_s)[0], f"{text!r} did not come in 75 s, but {said!r}"
            said += os.read(terminal, 4096)
        said = said.partition(text)[2]

    try:
        wait_for(b"mininet> ")
        # The shell that says 42, which the terminal does not merely repeat, becomes what Ctrl-C is to end.
        os.write(terminal, b"laptop sh -c 'echo $((6*7)); exec sleep 300'\n")
        wait_for(b"42")
        os.write(terminal, b"\x03")
        wait_for(b"mininet> ")
        os.write(terminal, b"tunnel laptop up\n")
        wait_for(b"v6v4 over udp")
        os.write(terminal, b"exit\n")
        wait_for(b"completed in")
        wait_for(b"seconds")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        os.close(terminal)  # hangs up on what is still there


OUT_OF_STEP: Final = """
from mininet.node import Node
from lab.mncli import catch_up
node = Node("sleeper")
for typed in ("\\n\\n", "sleep 300\\n"):
    node.write(typed)
    catch_up(node)
    print(node.cmd("echo in step"), end="")
node.terminate()
"""


def test_a_shell_is_caught_up_with_after_prompts_and_programs_that_nobody_waits_for(tmp_path: Path) -> None:
    assert script(OUT_OF_STEP, tmp_path).split() == ["in", "step"] * 2
