"""What a node sends, and runs: pings, datagrams, transfers, programs, and the story of one packet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from lab.errors import LabError, UsageError
from lab.results import CommandRecord, DatagramRecord, ExplainRecord, PingRecord, TransferRecord
from lab.scenario.place import PlacedNode

if TYPE_CHECKING:
    from lab.actors.datagram import Port
    from lab.scenario.node import LabNode


class TrafficNode(PlacedNode):
    """A node that sends packets and runs programs."""

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
        done = await self.namespace.run(argv, timeout_s=timeout_s)
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
