"""What a scenario sees: the nodes of a network that is up, and what can be done on each.

`scenario(net)` of a topology file gets a `Lab`; `net["laptop"]` is a `LabNode`.  Every action waits until it is
done, records what came of it (`lab.results`) and hands the record back.  An action that does not fit its node (a
tunnel on a firewall) is a `UsageError` that says what the node is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lab.errors import LabError, TunnelRefused, UsageError
from lab.results import (
    CommandRecord,
    CrossingRecord,
    DatagramRecord,
    ExperienceRecord,
    ExplainRecord,
    MoveRecord,
    PingRecord,
    PolicyRecord,
    Record,
    SetupRecord,
    TransferRecord,
    describe_setup,
)
from lab.topology.plan import AddNeighbor, InterfacePlan, NodePlan, Plan

if TYPE_CHECKING:
    from lab.actors.broker import TunnelBroker
    from lab.actors.client import TunnelClient
    from lab.actors.datagram import Port
    from lab.kernel.namespace import Namespace

log = logging.getLogger(__name__)

_KIND_OF_RECORD: Final = {
    SetupRecord: "setup",
    PingRecord: "ping",
    TransferRecord: "transfer",
    DatagramRecord: "datagram",
    CommandRecord: "command",
    PolicyRecord: "policy",
    MoveRecord: "move",
    ExplainRecord: "explain",
    CrossingRecord: "crossing",
    ExperienceRecord: "experience",
}
_PLUGGED_AFTER_S: Final = 5.0
"""When a link that was plugged in has to carry packets at the latest."""
_R = TypeVar("_R", bound=Record)


class Lab:
    """A network that is up.  Iterating gives its nodes; `lab["name"]` one of them."""

    parameters: Mapping[str, Any]
    """The parameters `build` was called with, defaults included."""

    def __init__(
        self,
        plan: Plan,
        namespaces: Mapping[str, Namespace],
        *,
        parameters: Mapping[str, Any],
        seed: str,
        on_record: Callable[[Mapping[str, Any]], None] = lambda record: None,
    ) -> None:
        """`on_record` is told of every record, as JSON, when it is made."""
        self.parameters = parameters
        self.plan = plan
        self.records: list[dict[str, Any]] = []
        self._on_record = on_record
        self.began = time.monotonic()
        self._seed = seed
        self._nodes = {node.name: LabNode(self, node, namespaces[node.name]) for node in plan.nodes}

    def __getitem__(self, name: str | LabNode) -> LabNode:
        if isinstance(name, LabNode):
            return name
        try:
            return self._nodes[name]
        except KeyError:
            raise UsageError(f"there is no node {name!r}; the nodes are {', '.join(self._nodes)}") from None

    def __iter__(self) -> Any:
        return iter(self._nodes.values())

    def rng(self, purpose: str) -> random.Random:
        """A random generator that depends on the run's seed and on `purpose` only."""
        return random.Random(f"{self._seed}/{purpose}")

    def now(self) -> float:
        """Seconds since the network was up."""
        return time.monotonic() - self.began

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of the lab's time pass."""
        await asyncio.sleep(seconds)

    def record(self, record: _R) -> _R:
        """Keep `record` for run.json and return it."""
        self.records.append({"kind": _KIND_OF_RECORD[type(record)], **asdict(record)})
        self._on_record(self.records[-1])
        return record

    async def start(self) -> None:
        """Put every client where it is at first, and start the programs that run before any scenario: the brokers."""
        for node in self:
            node.leave_other_places()
            if node.kind == "broker":
                await node.start_broker()

    async def stop(self) -> None:
        """Stop every program of every node; safe to call twice."""
        for node in self:
            await node.stop()


class LabNode:
    """One node of a network that is up."""

    def __init__(self, lab: Lab, plan: NodePlan, namespace: Namespace) -> None:
        self.lab = lab
        self.plan = plan
        self.name = plan.name
        self.kind = plan.kind
        self.namespace = namespace
        """The node's network namespace, for what this class has no method for."""
        self.policy: str | None = plan.options.get("policy") if plan.kind == "firewall" else None
        """A firewall's policy, None on other nodes."""
        self.log = logging.LoggerAdapter(log, {"node": plan.name})
        self._place = next((i for i in self._movable() if i.plugged), None)
        self._tunnel: TunnelClient | None = None
        self._broker: TunnelBroker | None = None
        self._advertiser: Any = None
        self._slaac: str | None = None
        self._ports: dict[int, Port] = {}

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    def _must_be(self, kind: str, action: str) -> None:
        if self.kind != kind:
            raise UsageError(f"{self.name} is a {self.kind}; {action} works on a {kind} only")

    # ------------------------------------------------------------------ addresses

    @property
    def ipv4(self) -> str | None:
        """The node's IPv4 address, or None; that of the place where it is, for a client that moves."""
        if self._place is not None and self._place.ipv4 is not None:
            return self._place.ipv4.partition("/")[0]
        return self.plan.ipv4

    @property
    def ipv6(self) -> str | None:
        """The node's IPv6 address: a tunnel's before a self-made one before a planned one; None without any."""
        if self._tunnel is not None and self._tunnel.report.client_ipv6 is not None:
            return str(self._tunnel.report.client_ipv6)
        return self._slaac or self.plan.ipv6

    def _address_of(self, to: str | LabNode, family: int | None) -> str:
        """The address to reach `to` at from here: IPv6 when both ends have it, unless `family` says otherwise."""
        if isinstance(to, str):
            try:
                return str(ip_address(to))
            except ValueError:
                pass
        other = self.lab[to]
        if family is None:
            family = 6 if self.ipv6 and other.ipv6 else 4 if self.ipv4 and other.ipv4 else 6
        address = other.ipv6 if family == 6 else other.ipv4
        if address is None:
            raise UsageError(f"{other.name} has no IPv{family} address to reach it at")
        return address

    def _plain_family(self, to: str | LabNode) -> int | None:
        """IPv4 where both ends have it; None for an address, which says it itself."""
        other = to if isinstance(to, LabNode) else next((node for node in self.lab if node.name == to), None)
        return None if other is None else 4 if self.ipv4 and other.ipv4 else 6

    async def wait_for_ipv6(self, timeout_s: float = 10.0) -> str:
        """Wait until the node has made itself an address from a router advertisement (RFC 4862); return it."""
        from lab.actors.advertise import global_address

        deadline = time.monotonic() + timeout_s
        while (address := global_address(self.namespace)) is None:
            if time.monotonic() >= deadline:
                raise LabError(f"{self.name} got no IPv6 address from a router advertisement in {timeout_s:g} s")
            await asyncio.sleep(0.02)
        self._slaac = str(address)
        self.log.info("has %s from a router advertisement", address)
        return self._slaac

    # ------------------------------------------------------------------ places

    @property
    def places(self) -> tuple[str, ...]:
        """The nodes that a client can move to, that where it is included; nothing for a node that stays."""
        return tuple(i.peer for i in self._movable())

    def _movable(self) -> list[InterfacePlan]:
        found = [i for i in self.plan.interfaces if i.ipv4 is not None]
        return found if self.kind == "client" and not all(i.plugged for i in found) else []

    def leave_other_places(self) -> None:
        """Unplug a client's links to where it is not at first."""
        from lab.kernel.plug import unplug

        for iface in self._movable():
            if not iface.plugged:
                unplug(self.namespace, iface.name, [str(iface.ipv4)])

    async def move_to(self, place: str | LabNode) -> MoveRecord:
        """Pull the link to where the client is and plug in the one to `place`, a neighbour, as of a laptop on its way.

        It gets the address and the default route that it has there and loses the ones before.  Its programs are not
        told: a tunnel stays as it was, until its keepalives or `connect_tunnel` end it.
        """
        from lab.kernel import plug

        name = place if isinstance(place, str) else place.name
        there = next((i for i in self._movable() if i.peer == name), None)
        if there is None:
            way_out = f"it can be at {', '.join(self.places)}" if self.places else "its links are all plugged in"
            raise UsageError(f"{self.name} cannot move to {name}: {way_out} (net.link(..., plugged=False))")
        at = self.lab.now()
        if self._place is not None:
            plug.unplug(self.namespace, self._place.name, [str(self._place.ipv4)])
        known = {
            step.address: step.mac
            for step in self.lab.plan.steps
            if isinstance(step, AddNeighbor) and (step.node, step.iface) == (self.name, there.name)
        }
        plug.plug(self.namespace, there.name, str(there.ipv4), there.gateway, known)
        self._place = there
        while not plug.carries(self.namespace, there.name):
            if self.lab.now() > at + _PLUGGED_AFTER_S:
                raise LabError(f"the link from {self.name} to {name} carries no packets {_PLUGGED_AFTER_S:g} s later")
            await asyncio.sleep(0.001)
        self.log.info("is at %s now, with %s", name, self.ipv4)
        return self.lab.record(MoveRecord(self.name, at, place=name, iface=there.name, address=self.ipv4))

    # ------------------------------------------------------------------ tunnels

    async def attempt_tunnel(
        self,
        broker: str | LabNode,
        *,
        tunnel: str = "v6anyv4",
        transport: str = "udp",
        user: str | None = None,
        password: str | None = None,
        mechanism: str | None = None,
        prefix_length: int | None = None,
        lan: str | None = None,
        keepalive_interval_s: int | None = 30,
        mtu: int = 1280,
        connect_timeout_s: float = 7.0,
        first_packet_timeout_s: float = 3.0,
        **options: Any,
    ) -> SetupRecord:
        """Try to set up a tunnel and return how it went; the outcome may be bad, the call does not raise for that.

        `tunnel` is v6anyv4, v6v4 or v6udpv4, `transport` is udp, tcp or auto (UDP, then TCP).  Without a user the
        mechanism is ANONYMOUS.  `lan` names the neighbour on whose link a delegated prefix is announced.  How patient
        the client is: `connect_timeout_s` for TCP, `first_packet_timeout_s` for an echo through the new tunnel, and
        `options`, which are fields of `lab.tsp.Retransmission`.
        """
        from lab.actors.client import TunnelClient
        from lab.tsp import ClientConfig, Mechanism, Retransmission, TunnelType

        self._must_be("client", "connect_tunnel")
        if self._tunnel is not None:
            await self.disconnect_tunnel()
        server = self.lab[broker]
        if self.ipv4 is None or server.ipv4 is None:
            raise UsageError(f"{self.name} and {server.name} need IPv4 addresses for a tunnel over IPv4")
        config = ClientConfig(
            client_address=IPv4Address(self.ipv4),
            tunnel=_choice(TunnelType, tunnel, "tunnel"),
            user=user,
            password=password,
            mechanisms=(_choice(Mechanism, mechanism, "mechanism"),) if mechanism else None,
            server_name=server.name,
            prefix_length=prefix_length,
            keepalive_interval_s=keepalive_interval_s,
            retransmission=Retransmission(**options),
        )
        client = TunnelClient(
            self.namespace,
            config,
            (server.ipv4, 3653),
            transport,
            mtu=mtu,
            connect_timeout_s=connect_timeout_s,
            first_packet_timeout_s=first_packet_timeout_s,
            rng=self.lab.rng(f"{self.name}/{len(self.lab.records)}"),
        )
        at = self.lab.now()
        report = await client.connect()
        if report.outcome == "ready":
            self._tunnel = client
            if lan is not None:
                await self._announce(report.prefix, lan)
        record = SetupRecord(
            node=self.name,
            at_s=at,
            broker=server.name,
            seen_by_broker=server.seen_address(report.client_ipv6),
            **{
                name: _plain(getattr(report, name))
                for name in SetupRecord.__slots__
                if name not in ("broker", "seen_by_broker")
            },
        )
        self.log.info("tunnel: %s", describe_setup(record))
        return self.lab.record(record)

    async def connect_tunnel(self, broker: str | LabNode, **options: Any) -> SetupRecord:
        """Set up a tunnel, as `attempt_tunnel` does; raises `TunnelRefused` or `LabError` when there is none."""
        record = await self.attempt_tunnel(broker, **options)
        if record.outcome == "refused":
            raise TunnelRefused(record.code or 0, record.reason)
        if record.outcome != "ready":
            raise LabError(f"{self.name} got no tunnel from {record.broker}: {describe_setup(record)}")
        return record

    async def wait_tunnel_lost(self, timeout_s: float) -> bool:
        """Wait until the tunnel's keepalives call it dead, at most `timeout_s`; whether they have."""
        if self._tunnel is None:
            raise UsageError(f"{self.name} has no tunnel that could die")
        try:
            await asyncio.wait_for(self._tunnel.wait_lost(), timeout_s)
        except TimeoutError:
            return False
        return True

    def tunnel_counters(self) -> dict[str, int]:
        """What the tunnel carried and dropped, by reason (`lab.encap.Drop`), and its `icmp_errors`; empty without one.

        Of a tunnel that the kernel's own device carries, nothing is counted here.
        """
        return dict(self._tunnel.counters) if self._tunnel is not None else {}

    async def disconnect_tunnel(self) -> None:
        """Take the tunnel down on this side; nothing happens when there is none."""
        if self._advertiser is not None:
            await self._advertiser.stop()
            self._advertiser = None
        if self._tunnel is not None:
            await self._tunnel.close()
            self._tunnel = None

    async def until_keepalive(self, margin_s: float = 0.25) -> None:
        """Wait until `margin_s` before the tunnel's next keepalive: the end of the longest silence it will have.

        Returns at once when there is no tunnel, or none that is alive.  (The margin is more than the 0.1 s by which
        Linux may let a program wait too long.)
        """
        keepalive = None if self._tunnel is None else self._tunnel.keepalive
        loop = asyncio.get_running_loop()
        due = None if keepalive is None else keepalive.next_echo
        if due is not None and due - margin_s <= loop.time():  # too late for this one
            await asyncio.sleep(due + margin_s - loop.time())
            due = None if keepalive is None else keepalive.next_echo
        if due is not None:
            await asyncio.sleep(due - margin_s - loop.time())

    async def _announce(self, prefix: IPv6Network | None, lan: str) -> None:
        from lab.actors.advertise import Advertiser

        iface = next((i.name for i in self.plan.interfaces if i.peer == lan), None)
        if iface is None:
            raise UsageError(f"{self.name} has no link to {lan!r} to announce a prefix on")
        if prefix is None:
            raise UsageError("lan= needs a delegated prefix; ask for one with prefix_length=64")
        self._advertiser = Advertiser(self.namespace, iface, prefix)
        await self._advertiser.start()

    # ------------------------------------------------------------------ brokers and firewalls

    async def start_broker(self) -> None:
        """Start the TSP broker of this node, over UDP and TCP."""
        from lab.actors.broker import TunnelBroker

        self._must_be("broker", "start_broker")
        self._broker = TunnelBroker.from_options(self.namespace, self.plan, rng=self.lab.rng(self.name))
        await self._broker.start()

    def seen_address(self, client_ipv6: IPv6Address | None) -> str | None:
        """The IPv4 address this broker sees the holder of `client_ipv6` at; None when nobody holds it."""
        if self._broker is None or client_ipv6 is None:
            return None
        peer = self._broker.peer_of(client_ipv6)
        return None if peer is None else str(peer)

    async def set_policy(self, policy: str | tuple[str, ...]) -> None:
        """Replace a firewall's rules by those of `policy` in one atomic step (see `lab.rules.firewall`)."""
        from lab.kernel import nft
        from lab.rules.firewall import check_policy, firewall_ruleset

        self._must_be("firewall", "set_policy")
        try:
            policy = check_policy(policy)
        except ValueError as exc:
            raise UsageError(f"{self.name}: {exc}") from None
        nft.load(self.namespace, firewall_ruleset(policy))
        self.policy = policy
        self.lab.record(PolicyRecord(node=self.name, at_s=self.lab.now(), policy=policy))
        self.log.info("policy is now %s", policy)

    async def try_policies(
        self, policies: Sequence[str], sender: str | LabNode, receiver: str | LabNode
    ) -> list[CrossingRecord]:
        """Load each policy in turn and send one packet of every mechanism of RFC 7123, and of innocents, past it.

        Sender and receiver are the firewall's neighbours and have IPv4 and IPv6 addresses.  See
        `lab.actors.filtering.try_policies`.
        """
        from lab.actors.filtering import Passage, try_policies

        self._must_be("firewall", "try_policies")
        near, far = self.lab[sender], self.lab[receiver]
        ends = [next((i for i in node.plan.interfaces if i.peer == self.name), None) for node in (near, far)]
        sides = {i.peer: i.name for i in self.plan.interfaces}
        if any(end is None or end.ipv4 is None or end.ipv6 is None for end in ends):
            raise UsageError(f"{near.name} and {far.name} need a link to {self.name} with IPv4 and IPv6 addresses")
        src, dst = (end for end in ends if end is not None)
        passage = Passage(
            near.namespace,
            self.namespace,
            far.namespace,
            IPv4Interface(str(src.ipv4)),
            src.name,
            IPv4Interface(str(dst.ipv4)).ip,
            IPv6Interface(str(src.ipv6)).ip,
            IPv6Interface(str(dst.ipv6)).ip,
            inside=sides[near.name],
            outside=sides[far.name],
        )
        found = []
        async for crossing in try_policies(passage, policies, self.lab.rng(f"{self.name}/crossing")):
            self.policy = crossing.policy
            record = CrossingRecord(node=self.name, at_s=self.lab.now(), **asdict(crossing))
            found.append(self.lab.record(record))
        return found

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes counted by the node's rules, by the rule's name (its nftables comment)."""
        from lab.kernel import nft

        return nft.counters(self.namespace)

    def broker_counters(self) -> dict[str, int]:
        """What a broker counted, by reason; empty on other nodes."""
        return dict(self._broker.counters) if self._broker is not None else {}

    # ------------------------------------------------------------------ traffic

    async def ping(
        self,
        to: str | LabNode,
        *,
        count: int = 3,
        size: int = 104,
        interval_s: float = 0.05,
        timeout_s: float = 2.0,
        before: Callable[[], Awaitable[object]] | None = None,
        family: int | None = None,
    ) -> PingRecord:
        """Send `count` echo requests, each an IP packet of `size` bytes, to a node or an address.

        They go out every `interval_s`, or whenever `before`, called before each, has returned.
        """
        from lab.actors.ping import ping

        address = self._address_of(to, family)
        at = self.lab.now()
        report = await ping(
            self.namespace,
            address,
            count=count,
            size=size,
            interval_s=interval_s,
            timeout_s=timeout_s,
            before=before,
        )
        record = PingRecord(
            node=self.name,
            at_s=at,
            to=str(to) if isinstance(to, str) else to.name,
            address=address,
            size=size,
            sent=report.sent,
            received=report.received,
            rtts_s=report.rtts_s,
            sent_s=report.sent_s,
            lost=report.lost,
        )
        self.log.info("ping %s (%s): %d of %d answered", record.to, address, record.received, record.sent)
        return self.lab.record(record)

    async def send_udp(
        self,
        to: str | LabNode,
        port: int,
        *,
        source_port: int = 0,
        listener: str | LabNode | None = None,
        listener_port: int | None = None,
        timeout_s: float = 1.0,
    ) -> DatagramRecord:
        """Send one UDP datagram over IPv4 and listen for it, on `to` or, if `to` is a NAT, on a `listener` behind it.

        A port that was sent from or listened on stays open, so what is sent from it again is of the same flow.
        `source_port` 0 is any that is free.  What has not arrived after `timeout_s` is taken for lost.
        """
        other = self.lab[to]
        hearer = other if listener is None else self.lab[listener]
        address = self._address_of(other, 4)
        source = self._port(source_port)
        ear = hearer._port(port if listener_port is None else listener_port)
        at = self.lab.now()
        token = self.lab.rng(f"{self.name}/{source.number}/{len(self.lab.records)}/{at}").randbytes(16)
        source.send(token, (address, port))
        seen = await ear.heard(token, timeout_s)
        record = DatagramRecord(
            node=self.name,
            at_s=at,
            to=other.name,
            address=address,
            port=port,
            source_port=source.number,
            listener=hearer.name,
            seen_as=None if seen is None else f"{seen[0]}:{seen[1]}",
        )
        self.log.info("datagram from port %d to %s port %d: seen as %s", source.number, to, port, record.seen_as)
        return self.lab.record(record)

    def _port(self, number: int) -> Port:
        from lab.actors.datagram import Port

        if number == 0 or number not in self._ports:
            port = Port(self.namespace, number)
            self._ports[port.number] = port
            return port
        return self._ports[number]

    async def transfer(
        self,
        to: str | LabNode,
        *,
        size: int = 1_000_000,
        timeout_s: float = 60.0,
        over_s: float = 0.0,
        may_fail: bool = False,
        family: int | None = None,
    ) -> TransferRecord:
        """Send `size` random bytes to a node over TCP and compare checksums.

        They are sent as fast as they go or, as in a talk, little by little in the course of `over_s`.  A transfer that
        does not end in `timeout_s` raises LabError or, if it `may_fail`, is recorded as not intact, with the reason.
        """
        from lab.actors.transfer import transfer

        other = self.lab[to]
        address = self._address_of(other, family)
        at = self.lab.now()
        told: dict[str, Any]
        try:
            report = await transfer(
                self.namespace,
                other.namespace,
                address,
                size=size,
                timeout_s=timeout_s,
                over_s=over_s,
                rng=self.lab.rng(f"{self.name}/transfer/{len(self.lab.records)}"),
            )
            told = {"seconds": report.seconds, "intact": report.intact, "longest_gap_s": report.longest_gap_s}
        except LabError as exc:
            if not may_fail or isinstance(exc, UsageError):
                raise
            told = {"seconds": self.lab.now() - at, "intact": False, "reason": str(exc)}
        record = TransferRecord(node=self.name, at_s=at, to=other.name, address=address, size=size, **told)
        verdict = record.reason or ("intact" if record.intact else "DAMAGED")
        self.log.info("%d bytes to %s: %s", size, other.name, verdict)
        return self.lab.record(record)

    async def explain(
        self,
        to: str | LabNode,
        *,
        udp: int | None = None,
        tcp: int | None = None,
        proto: int | None = None,
        icmp: bool = False,
        mechanism: str | None = None,
        source_port: int | None = None,
        size: int | None = None,
        ttl: int | None = None,
    ) -> ExplainRecord:
        """Send one packet to a node or an address, watch it on every node, and tell what became of it.

        It is a UDP datagram or a TCP SYN to a port, a packet of an IP protocol (41: IPv6 inside IPv4), an ICMP echo
        request, or a packet of a mechanism of `lab.generators`.  With a `size` in bytes no router may fragment it;
        `ttl` is how many hops it has to live.
        """
        from lab.actors.probing import observe
        from lab.explain.probe import Kind, make_probe
        from lab.explain.story import tell_story
        from lab.explain.tell import text

        name = to if isinstance(to, str) else to.name
        rng = self.lab.rng(f"{self.name}/explain/{len(self.lab.records)}")
        try:
            kind = Kind(udp=udp, tcp=tcp, proto=proto, icmp=icmp, mechanism=mechanism, size=size, ttl=ttl)
            destination = ip_address(self._address_of(to, kind.version or self._plain_family(to)))
            source = self.ipv4 if destination.version == 4 else self.ipv6
            if source is None:
                raise UsageError(f"{self.name} has no IPv{destination.version} address to send from")
            if ip_address(source) == destination:
                raise UsageError(f"what {self.name} sends to itself goes nowhere; name another node")
            probe = make_probe(
                kind,
                self.name,
                name,
                ip_address(source),
                destination,
                bytes(rng.choice(b"bcdfghjkmnpqrstvwxz") for _ in range(4)),
                source_port=rng.randrange(49_152, 65_536) if source_port is None else source_port,
            )
        except ValueError as exc:
            raise UsageError(str(exc)) from None
        at = self.lab.now()
        story = tell_story(await observe(self.lab.plan, {node.name: node.namespace for node in self.lab}, probe))
        found = story.to_json()
        self.log.info("%s to %s: %s", story.what, name, story.verdict)
        return self.lab.record(
            ExplainRecord(
                node=self.name,
                at_s=at,
                to=name,
                what=story.what,
                packet=story.packet,
                fate=story.fate.value,
                ended_at=story.node,
                by=story.by,
                verdict=story.verdict,
                hops=tuple(found["hops"]),
                answers=tuple(found["answers"]),
                told=tuple(text(story)),
            )
        )

    async def run(self, argv: Sequence[str], *, timeout_s: float = 60.0) -> CommandRecord:
        """Run a program on the node (no shell) and record its status and output; it may fail."""
        at = self.lab.now()
        done = await self.namespace.run(list(argv), timeout_s=timeout_s)
        return self.lab.record(
            CommandRecord(
                node=self.name,
                at_s=at,
                argv=tuple(argv),
                returncode=done.returncode,
                stdout=done.stdout,
                stderr=done.stderr,
            )
        )

    async def stop(self) -> None:
        """Stop the node's programs; safe to call twice."""
        await self.disconnect_tunnel()
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        if self._broker is not None:
            await self._broker.stop()
            self._broker = None


def _plain(value: Any) -> Any:
    """A report's value as JSON can hold it."""
    if isinstance(value, IPv4Address | IPv6Address | IPv6Network):
        return str(value)
    return getattr(value, "value", value)


def _choice(kind: Any, value: str, what: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{what} {value!r} does not exist; choose from {', '.join(k.value for k in kind)}") from None
