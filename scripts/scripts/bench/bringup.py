#!/usr/bin/env python3
"""How long it takes to start and stop a network of N hosts around one router: this lab, `ip -batch`, Mininet.

    scripts/bench/bringup.py [--nodes 10,100,500] [--repeat 5] [--without-mininet]

Every host has its own namespace, a veth to the router, an IPv4 and an IPv6 address at both ends and two default
routes.  All three are run in turn, in namespaces of their own, `--repeat` times; medians and the ratios of medians are
printed, so that a noisy machine disturbs all alike.

- lab: `build(plan)`, which also writes sysctls, turns offloads off and waits until every link carries packets.
- ip -batch: one process for namespaces and links, then one in each namespace; none of the extra work above.
- Mininet (Debian's package, its own Python): hosts and a router node with direct links, IPv4 only.

"stop" is the call that ends the network.  Kernel work goes on after it: namespaces are taken apart by a kernel
thread.  "gone" is until links that led from the router and from the last host to a namespace of ours have vanished
with them, which is when the kernel has removed the interfaces of the network.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(_CHECKOUT))

from lab.kernel import enter, libc, netlink  # noqa: E402
from lab.kernel.build import build  # noqa: E402
from lab.kernel.namespace import Namespace  # noqa: E402
from lab.topology.plan import AddAddress, AddLink, AddNode, AddRoute, Plan, SetSysctl, SetUp, Step  # noqa: E402

SYSTEM_PYTHON = "/usr/bin/python3"
SENTINELS = ("gone0", "gone1")

Times = dict[str, float]


def ipv4(number: int, end: int) -> str:
    return f"10.{number // 250}.{number % 250}.{end}"


def ipv6(number: int, end: int) -> str:
    return f"2001:db8:{number:x}::{end}"


def steps(hosts: int) -> Iterator[Step]:
    yield AddNode("router")
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        yield SetSysctl("router", f"net/{key}", "1")
    yield SetSysctl("router", "net/ipv6/conf/default/accept_dad", "0")
    for number in range(hosts):
        yield AddNode(f"h{number}")
        yield SetSysctl(f"h{number}", "net/ipv6/conf/default/accept_dad", "0")
    for number in range(hosts):
        mac = f"00:{number >> 8:02x}:{number & 255:02x}"
        yield AddLink("router", f"e{number}", number + 2, f"02:00:01:{mac}", f"h{number}", "eth0", 2, f"02:00:02:{mac}")
    for number in range(hosts):
        for end, node, iface, index in ((1, "router", f"e{number}", number + 2), (2, f"h{number}", "eth0", 2)):
            yield AddAddress(node, iface, index, f"{ipv4(number, end)}/24")
            yield AddAddress(node, iface, index, f"{ipv6(number, end)}/64")
            yield SetUp(node, iface, index)
        yield AddRoute(f"h{number}", "0.0.0.0/0", ipv4(number, 1), "eth0", 2)
        yield AddRoute(f"h{number}", "::/0", ipv6(number, 1), "eth0", 2)


def vanished() -> bool:
    return not set(SENTINELS) & {name for _, name in socket.if_nameindex()}


def wait_until_gone(began: float) -> float:
    while not vanished():
        time.sleep(0.001)
    return time.perf_counter() - began


def lab(hosts: int) -> Times:
    plan = Plan("bench", (), tuple(steps(hosts)))
    began = time.perf_counter()
    fabric = build(plan)
    started = time.perf_counter() - began
    here = Namespace.current("here")
    for name, node in zip(SENTINELS, ("router", f"h{hosts - 1}"), strict=True):
        macs = "02:00:00:00:00:01", "02:00:00:00:00:02"
        here.netlink.do([netlink.add_veth(name, 0, macs[0], here.fd, "far", 0, macs[1], fabric[node].fd, 1500)])
        fabric[node].close_netlink()
    here.close()
    began = time.perf_counter()
    fabric.close()
    stopped = time.perf_counter() - began
    return {"start": started, "stop": stopped, "gone": wait_until_gone(began)}


def ip_batch(lines: list[str], *options: str) -> None:
    subprocess.run(["ip", *options, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


def iproute(hosts: int) -> Times:
    began = time.perf_counter()
    names = ["router", *(f"h{number}" for number in range(hosts))]
    links = [f"link add e{n} netns router type veth peer name eth0 netns h{n}" for n in range(hosts)]
    ip_batch([*(f"netns add {name}" for name in names), *links])
    router = ["link set lo up"]
    for number in range(hosts):
        router += [
            f"addr add {ipv4(number, 1)}/24 dev e{number}",
            f"addr add {ipv6(number, 1)}/64 dev e{number} nodad",
            f"link set e{number} up",
        ]
        host = [
            "link set lo up",
            f"addr add {ipv4(number, 2)}/24 dev eth0",
            f"addr add {ipv6(number, 2)}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {ipv4(number, 1)}",
            f"route add default via {ipv6(number, 1)} dev eth0",
        ]
        ip_batch(host, "-n", f"h{number}")
    ip_batch(router, "-n", "router")
    started = time.perf_counter() - began
    ends = zip(SENTINELS, ("router", f"h{hosts - 1}"), strict=True)
    ip_batch([f"link add {name} type veth peer name far netns {node}" for name, node in ends])
    began = time.perf_counter()
    ip_batch([f"netns del {name}" for name in names])
    stopped = time.perf_counter() - began
    return {"start": started, "stop": stopped, "gone": wait_until_gone(began)}


MININET = r"""
import json, subprocess, sys, time
from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.node import Node
hosts, sentinels = int(sys.argv[1]), sys.argv[2:]
class Router(Node):
    def config(self, **parameters):
        super().config(**parameters)
        self.cmd("sysctl -w net.ipv4.ip_forward=1")
setLogLevel("critical")
began = time.perf_counter()
net = Mininet(controller=None, waitConnected=False)
router = net.addHost("router", cls=Router, ip=None)
for n in range(hosts):
    address = "10.%d.%d." % (n // 250, n % 250)
    host = net.addHost("h%d" % n, ip=address + "2/24", defaultRoute="via " + address + "1")
    net.addLink(host, router, params2={"ip": address + "1/24"})
net.start()
started = time.perf_counter() - began
for name, node in zip(sentinels, (router, host)):
    line = "ip link add %s type veth peer name far netns %d" % (name, node.pid)
    subprocess.run(line.split(), check=True)
began = time.perf_counter()
net.stop()
stopped = time.perf_counter() - began
print(json.dumps({"start": started, "stop": stopped, "began": began}))
"""


def mininet(hosts: int) -> Times:
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", MININET, str(hosts), *SENTINELS], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"Mininet failed: {done.stderr[-500:]}")
    times: Times = json.loads(done.stdout.splitlines()[-1])
    # The same clock: perf_counter is CLOCK_MONOTONIC in every process.
    return {"start": times["start"], "stop": times["stop"], "gone": wait_until_gone(times["began"])}


def measure(nodes: list[int], repeat: int, ways: dict[str, Callable[[int], Times]]) -> None:
    print(f"{'nodes':>5}  {'':<10}{'start':>10}{'stop':>10}{'gone':>10}    medians of {repeat}, ms")
    for hosts in nodes:
        found: dict[str, list[Times]] = {name: [] for name in ways}
        for _ in range(repeat):
            for name, way in ways.items():
                found[name].append(way(hosts))
        medians = {
            name: {what: statistics.median(times[what] for times in runs) for what in ("start", "stop", "gone")}
            for name, runs in found.items()
        }
        for name, times in medians.items():
            print(f"{hosts:>5}  {name:<10}" + "".join(f"{1000 * times[what]:>10.1f}" for what in times))
        ours = medians["lab"]
        for name, times in medians.items():
            if name != "lab":
                ratios = ", ".join(f"{what} {ours[what] / times[what]:.3f}" for what in times)
                inverse = ", ".join(f"{what} {times[what] / ours[what]:.1f}x" for what in times)
                print(f"{hosts:>5}  lab / {name}: {ratios}   ({name} takes {inverse})")
        print(flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", default="10,100,500", help="numbers of hosts (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--without-mininet", action="store_true")
    arguments = parser.parse_args()
    ways: dict[str, Callable[[int], Times]] = {"lab": lab, "ip -batch": iproute, "Mininet": mininet}
    if arguments.without_mininet:
        del ways["Mininet"]
    try:
        enter.isolate()
    except enter.EnterError as exc:
        print(f"{exc}; {enter.way_out(exc.error.errno or 0)}", file=sys.stderr)
        return 3
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    libc.set_parent_death_signal(9)
    libc.mount("proc", "/proc", "proc", 0)
    libc.mount("bench", "/run", "tmpfs", 0)
    measure([int(word) for word in arguments.nodes.split(",")], arguments.repeat, ways)
    return 0


if __name__ == "__main__":
    sys.exit(main())
