"""What `mn --custom lab/mn.py` has beyond Mininet: a network that is checked, commands, and `--test tsp`.

tunnel laptop up user=ann password=secret      tunnel laptop show      tunnel laptop down
policy firewall drop_3653                      policy                  counters firewall
explain laptop broker udp=3653                 impairments             laptop ping -c 3 server
move laptop cafe                               move laptop
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import shlex
import shutil
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from lab.errors import LabError, UsageError
from lab.kernel.build import Fabric
from lab.kernel.caps import Capabilities, probe
from lab.kernel.namespace import raise_descriptor_limit
from lab.mininet.base import LabHost
from lab.mininet.links import check_links, namespace_of
from lab.mininet.plans import PlanNode, wait_until_ready
from lab.mininet.running import running
from lab.mininet.stock import CLI, Mininet, ensureRoot, error, output, quietRun
from lab.mininet.topo import PlanTopo, TspTopo
from lab.topology.plan import Plan


class LabNet(Mininet):
    """A Mininet network that, when it is of the lab's nodes, is ready and measured once `start` is back."""

    current: LabNet | None = None

    def __init__(self, topo: Any = None, **options: Any) -> None:
        if isinstance(topo, PlanTopo):
            options.update(controller=None)
            ensureRoot()
            raise_descriptor_limit()
            Mininet.inited = True  # it would raise limits of the machine too, for networks of thousands of nodes
        if not _is_root_of_the_machine():
            Mininet.inited = True  # they are not this user's to raise
        LabNet.current = self
        super().__init__(topo=topo, **options)

    def start(self) -> None:
        """Start, wait until every link carries packets, and measure what was impaired.  Raises LabError."""
        super().start()
        if not isinstance(self.topo, PlanTopo):
            return
        self.bring_up()
        lab = running().lab
        lab.plan = self.topo.plan
        check_links(self)
        for node in self.hosts:
            if isinstance(node, LabHost):
                node.member.leave_other_places()

    def bring_up(self) -> None:
        """Bring every link of the plan up, also those that are unplugged, and wait until it carries packets."""
        with self.fabric() as fabric:
            wait_until_ready(self.topo.plan, fabric)

    def fabric(self) -> Fabric:
        """Handles on the namespaces of all nodes; that of a bridge of Open vSwitch is the machine's own."""
        fabric = Fabric()
        for node in [*self.hosts, *self.switches]:
            fabric.add(namespace_of(node))
        return fabric

    def configLinkStatus(self, src: str, dst: str, status: str) -> None:  # noqa: N802 - Mininet's name
        """Pull a cable ("down") or put it in again ("up"), with the addresses and routes that the kernel took away.

        Of a link to where a client is not, only the other end: the client's own is for `move` to plug in.
        """
        for name, place in ((src, dst), (dst, src)):
            node = self.nameToNode.get(name)
            if isinstance(node, PlanNode) and node.is_away_from(place):
                self._far_end_status(node, place, status)
                return
        super().configLinkStatus(src, dst, status)
        for name in (src, dst) if status == "up" else ():
            if isinstance(node := self.nameToNode.get(name), PlanNode):
                node.restore()

    def _far_end_status(self, client: PlanNode, place: str, status: str) -> None:
        for end in client.ends_at(place):
            if said := end.ifconfig(status):
                raise LabError(f"{place}: {said.strip()}")
        if status == "up" and isinstance(there := self.nameToNode[place], PlanNode):
            there.restore()
        unplugged = f"{client.name} is not there: move {client.name} {place}"
        output(f"{place}'s end of the link is {status}; {unplugged}\n")

    def pingAll(self, timeout: str | None = None) -> float:  # noqa: N802 - Mininet's name
        """Have every node of the lab ping every other; the percentage lost.  Where no address fits none is sent."""
        nodes = [node for node in self.hosts if isinstance(node, LabHost)]
        if len(nodes) != len(self.hosts):
            return float(super().pingAll(timeout))
        sent = received = 0
        for node in nodes:
            told = []
            for other in (one for one in nodes if one is not node):
                address = address_for(node, other)
                if address is None:
                    told.append("-")
                    continue
                record = running().do(node.member.ping(address, count=1, timeout_s=float(timeout or 0.5)))
                sent, received = sent + 1, received + record.received
                told.append(other.name if record.received else "X")
            output(f"{node.name} -> {' '.join(told)}\n")
        output(f"*** Results: {received} of {sent} answered\n")
        return 100 * (1 - received / sent) if sent else 0.0

    def stop(self) -> None:
        """Stop brokers and tunnels, then everything."""
        LabNet.current = None
        super().stop()


def address_for(node: LabHost, other: LabHost) -> str | None:
    """What `node` reaches `other` at, IPv6 where both have it; None where they have no address family in common."""
    here, there = node.member, other.member
    for ours, theirs in ((here.ipv6, there.ipv6), (here.ipv4, there.ipv4)):
        if ours and theirs:
            return str(theirs)
    return None


def _is_root_of_the_machine() -> bool:
    """Whether this process is root, and not merely of a user namespace."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def cleanup() -> None:
    """Stop the network and end with exit status 1: `mn` calls this after an error, and would end with 0.

    It takes the place of Mininet's own, which kills by name and deletes everybody's /tmp/*.log; `mn -c` is that.
    """
    if "-c" in sys.argv or "--clean" in sys.argv:
        import_module("mininet.clean").cleanup()
        return
    if LabNet.current is not None:
        with suppress(AttributeError, LabError):  # of a network that was not made wholly
            LabNet.current.stop()
    sys.exit(1)


def tsp(net: Any) -> None:
    """`--test tsp`: the topology's own scenario and check, recorded in a run folder; exit status 1 if it fails."""
    from lab.run import run

    if not isinstance(net.topo, TspTopo):
        raise UsageError("--test tsp needs a topology of the lab, as in --topo tsp,home_nat")
    nodes = [node for node in net.hosts if isinstance(node, PlanNode)]
    for node in nodes:
        node.go_home()
        node.stop_programs()  # the scenario starts its own
    net.bring_up()  # all are measured
    logging_before = logging.root.handlers[:], logging.root.level
    try:
        done = run(str(net.topo.topology.path), on=_Present(net), parameters=net.topo.parameters)
    finally:
        logging.root.handlers[:], logging.root.level = logging_before
        for node in nodes:
            node.go_home()
            if node.kind == "broker":
                node.serve()
    output("\n".join(done.summary()) + "\n")
    if done.status != "ok":
        net.stop()
        sys.exit(1)


class _Present:
    """An engine for `lab.run.run`: the network that `mn` has up."""

    name = "mininet"
    repeatable = False

    def __init__(self, net: LabNet) -> None:
        self._net = net

    def capabilities(self) -> Capabilities:
        return probe()

    def facts(self) -> dict[str, object]:
        from lab.kernel.stock_mininet import version

        return {"mininet": version()}

    def patience_s(self, scenarios_s: float, trials: int) -> float:
        return scenarios_s + 60

    def run(self, folder: Path, *, wall_timeout_s: float) -> int:
        from lab import agent

        def present(_plan: Plan) -> Fabric:
            return self._net.fabric()

        job = folder / "job.json"  # its plan has other names for the ports of Open vSwitch
        job.write_text(json.dumps({**json.loads(job.read_text()), "plan": self._net.topo.plan.to_json()}))
        return agent.main([str(folder)], builder=present)


def _told(command: Callable[[LabCLI, list[str]], None]) -> Callable[[LabCLI, str], None]:
    """A command of the CLI that takes words, and whose errors are told in a line."""

    def run(self: LabCLI, line: str) -> None:
        try:
            command(self, shlex.split(line))
        except LabError as exc:
            error(f"*** {exc}\n")
        except Exception as exc:  # noqa: BLE001 - a slip of the finger must not end the network
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(exc))
            error(f"*** {f'there is no option {unknown[1]}=' if unknown else exc}\n")

    run.__doc__ = command.__doc__
    return run


class LabCLI(CLI):
    """Mininet's command line with the lab's commands."""

    def run(self) -> None:
        """Run commands until one ends the network; however often Ctrl-C is pressed, it does not."""
        while True:
            with suppress(KeyboardInterrupt):  # one that came while stock Mininet dealt with another
                super().run()
                return

    def default(self, line: str) -> Any:
        """A command on a node; other nodes' names become addresses that this node can use, IPv6 where both have it."""
        words = line.split(" ")  # not more: blanks in quotes stay
        node = self.mn.nameToNode.get(words[0])
        if not isinstance(node, LabHost) or not any(words[1:]):
            return super().default(line)
        try:
            words[1:] = [self._address(node, word) for word in words[1:]]
            if words[1] == "ping" and shutil.which("ping") is None:
                return self._ping(node, [word for word in words[2:] if word])
        except (LabError, ValueError) as exc:
            error(f"*** {exc}\n")
            return None
        # Names are addresses by now; an address is no name.
        return super().default(" ".join(words))

    def waitForNode(self, node: Any) -> None:  # noqa: N802 - Mininet's name
        """Print what a node's command says until it ends; Ctrl-C and, on a terminal, other keys are for the command.

        Commands that come from a pipe or a file are all for this command line: stock Mininet would give those that
        follow to the program that runs.  And where an exception for a Ctrl-C strikes, stock Mininet may lose what it
        has just read; here it is noted, and acted upon in its turn.
        """
        was_interrupted = False
        with _interrupts() as interrupts:
            waiting_for = select.poll()
            for file in (node.stdout, interrupts, *([self.stdin] if self.isatty() else [])):
                waiting_for.register(file, select.POLLIN)
            if self.isatty():
                quietRun("stty -icanon min 1")  # each key at once
            while node.waiting:
                ready = {number for number, _ in waiting_for.poll()}
                if interrupts in ready:
                    os.read(interrupts, 64)
                    _interrupt(node)
                    was_interrupted = True
                if node.stdout.fileno() in ready:
                    output(node.monitor())
                elif self.isatty() and self.stdin.fileno() in ready:
                    node.write(self.stdin.read(1))
            if was_interrupted:
                catch_up(node)

    def _address(self, node: LabHost, word: str) -> str:
        other = self.mn.nameToNode.get(word)
        if not isinstance(other, LabHost) or other is node:
            return word
        address = address_for(node, other)
        if address is None:
            way = f"; does a tunnel help: tunnel {node.name} up" if node.kind == "client" else ""
            raise UsageError(f"{node.name} and {other.name} have no address family in common{way}")
        return address

    def _ping(self, node: LabHost, words: list[str]) -> None:
        """In the place of the program ping where that is not installed: -c COUNT and -s SIZE are understood."""
        count, size, target = 3, 104, None
        rest = iter(words)
        for word in rest:
            if word == "-c":
                count = int(next(rest, "3"))
            elif word == "-s":
                size = int(next(rest, "56")) + 48
            elif not word.startswith("-"):
                target = word
        if target is None:
            raise UsageError("ping needs a node or an address")
        record = running().do(node.member.ping(target, count=count, size=size))
        for rtt_s in record.rtts_s:
            output(f"{record.size} bytes from {record.address}: time={rtt_s * 1000:.2f} ms\n")
        output(f"{record.sent} packets transmitted, {record.received} received (the lab's own ping)\n")

    @_told
    def do_tunnel(self, words: list[str]) -> None:
        """tunnel NODE up [broker=NAME] [user=NAME password=WORD] [tunnel=v6udpv4] [transport=tcp] | down | show"""
        from lab.results import describe_setup

        if len(words) < 2 or words[1] not in ("up", "down", "show"):
            raise UsageError("tunnel NODE up [KEY=VALUE ...], tunnel NODE down or tunnel NODE show")
        node = self._of_the_lab(words[0], "client")
        if words[1] == "down":
            running().do(node.member.disconnect_tunnel())
        elif words[1] == "up":
            options = _options(words[2:])
            broker = self._of_the_lab(str(options.pop("broker", None) or self._broker()), "broker")
            record = running().do(node.member.attempt_tunnel(broker.member, **options))
            output(f"{node.name}: {describe_setup(record)}\n")
            return
        alive, address = node.member.tunnel_alive, node.member.ipv6
        state = f"tunnel up, {address}" if alive else f"tunnel {address} lost, its keepalives are not answered"
        output(f"{node.name}: {'no tunnel' if alive is None else state}\n")
        if words[1] == "show" and alive is not None:
            output(node.pexec("ip -6 -brief address show dev tsp0")[0] + node.pexec("ip -6 route show dev tsp0")[0])

    @_told
    def do_move(self, words: list[str]) -> None:
        """move CLIENT PLACE, as in move laptop cafe; move CLIENT tells where it is and can be, move alone of all"""
        if len(words) > 2:
            raise UsageError("move CLIENT PLACE")
        moving = {node.name: node for node in self.mn.hosts if isinstance(node, PlanNode) and node.member.places}
        if not moving:
            raise UsageError("no client of this network moves: no link is plugged=False")
        if words and words[0] not in moving:
            client = self._of_the_lab(words[0], "client").name
            raise UsageError(f"{client} does not move, its links are all plugged in; there moves {', '.join(moving)}")
        if len(words) == 2:
            moving[words[0]].move_to(words[1])
        for node in [moving[words[0]]] if words else moving.values():
            there = [place for place in node.member.places if node.is_away_from(place)]
            more = f"; it can move to {', '.join(there)}" if len(words) < 2 else ""
            if len(words) == 2 and node.member.tunnel_alive:
                more = f"; its tunnel does not know, for another: tunnel {node.name} up"
            (here,) = set(node.member.places) - set(there)
            output(f"{node.name}: at {here}, {node.member.ipv4}{more}\n")

    @_told
    def do_policy(self, words: list[str]) -> None:
        """policy FIREWALL NAME, as in policy firewall drop_3653; policy alone lists the names"""
        from lab.rules.firewall import POLICIES

        if not words:
            output("".join(f"{name:<24} {policy.text}\n" for name, policy in POLICIES.items()))
            return
        node = self._of_the_lab(words[0], "firewall")
        if len(words) == 1:
            output(f"{node.name}: {node.member.policy}\n")
        elif isinstance(node, PlanNode):
            running().do(node.member.set_policy(words[1]))
        else:
            node.set_policy(words[1])

    @_told
    def do_counters(self, words: list[str]) -> None:
        """counters NODE: packets that the rules of a NAT or firewall, or a broker, counted"""
        if not words:
            raise UsageError("counters NODE")
        node = self._of_the_lab(words[0], None)
        if node.kind == "broker":
            found: Mapping[str, int] = node.member.broker_counters()
        else:
            found = {name: packets for name, (packets, _) in node.member.counters().items()}
        output("".join(f"{name:<24} {count}\n" for name, count in found.items()) or f"{node.name} counts nothing\n")

    @_told
    def do_explain(self, words: list[str]) -> None:
        """explain NODE TO udp=3653 | tcp=3653 | proto=41 | icmp=1 [size=BYTES] [ttl=HOPS]: what became of one packet"""
        if len(words) < 3:
            raise UsageError(
                "explain NODE TO and one of udp=PORT, tcp=PORT, proto=NUMBER, icmp=1, mechanism=NAME; if you like "
                "size=BYTES, ttl=HOPS, source_port=PORT"
            )
        node = self._of_the_lab(words[0], None)
        if not isinstance(self.mn.topo, PlanTopo):
            raise UsageError("packets can be explained in the lab's topologies only, as in --topo tsp,home_nat")
        record = running().do(node.member.explain(words[1], **_options(words[2:])))
        output("\n".join(record.told) + "\n")

    @_told
    def do_impairments(self, _words: list[str]) -> None:
        """impairments: measures what every impaired link does"""
        rows = check_links(self.mn)
        for row in rows:
            output(f"{row['direction']}: asked {row['requested']}, {_does(row)}\n")
        if not rows:
            output("no link was asked to delay, lose or limit anything\n")

    def _of_the_lab(self, name: str, kind: str | None) -> LabHost:
        node = self.mn.nameToNode.get(name)
        fitting = [n.name for n in self.mn.hosts if isinstance(n, LabHost) and kind in (None, n.kind)]
        if not isinstance(node, LabHost) or node.name not in fitting:
            raise UsageError(f"{name!r} is no {kind or 'node of the lab'}; there is {', '.join(fitting) or 'none'}")
        return node

    def _broker(self) -> str:
        found = [n.name for n in self.mn.hosts if isinstance(n, LabHost) and n.kind == "broker"]
        if len(found) != 1:
            raise UsageError(f"say which broker: broker={' or broker='.join(found)}" if found else "there is no broker")
        return str(found[0])


@contextmanager
def _interrupts() -> Iterator[int]:
    """A file descriptor with a byte to read for each Ctrl-C, which is no KeyboardInterrupt meanwhile."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.signal(signal.SIGINT, lambda *_: None)
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGINT, before)
        os.close(reader)
        os.close(writer)


def _interrupt(node: Any) -> None:
    """Do to a node's command what Ctrl-C does.

    Typed into its terminal, as stock Mininet does it, the key throws away what the terminal has not yet handed on, and
    that may be the very prompt that tells the command's end.
    """
    group = os.tcgetpgrp(node.master)
    if group > 0 and termios.tcgetattr(node.master)[3] & termios.ISIG:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGINT)
    else:
        node.sendInt()  # a program that reads every key itself


def catch_up(node: Any) -> None:
    """Read all that a node's shell says before its answer to a question.

    A Ctrl-C that reached it at its prompt makes it say a prompt more, or lose the beginning of the next line: what it
    says afterwards would be taken for the end of another command.  One that reached it while it was starting a program
    may have it say its prompt although the program runs, and wait for its end after the next command: it needs another.
    """
    readable = select.poll()
    readable.register(node.stdout, select.POLLIN)  # Mininet's own is also for writing, and so always ready
    for number in range(10):
        if number:
            _interrupt(node)
        answer = f"caught up {number}\r\n\x7f"
        node.write(f"echo caught up {number}\n")
        said, deadline = "", time.monotonic() + 1 + number
        while (patience_s := deadline - time.monotonic()) > 0:
            if readable.poll(patience_s * 1000):
                said += node.read()
            if answer in said:
                return


_WHOLE: Final = frozenset(
    {
        "udp", "tcp", "proto", "source_port", "size", "ttl", "prefix_length", "mtu", "keepalive_interval_s",
        "first_transmissions", "transmissions",
    }
)  # fmt: skip


def _options(words: list[str]) -> dict[str, Any]:
    """KEY=VALUE words; numbers and yes or no (1, 0) where the key wants them."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{word}: write KEY=VALUE")
        kind = int if key in _WHOLE or key == "icmp" else float if key.endswith("_s") else str
        try:
            found[key] = bool(int(value)) if key == "icmp" else kind(value)
        except ValueError:
            raise UsageError(f"{word}: {key} is a {'whole ' if kind is int else ''}number") from None
    return found


def _does(row: Mapping[str, Any]) -> str:
    """What a way along a link was found to do."""
    if row.get("down"):
        return "is down or unplugged"
    untold = ", ".join(sorted(row["requested"].keys() - row["achieved"].keys()))
    return f"does {row['achieved']}" + (f"; no sample can tell {untold}" if untold else "")
