"""A client's tunnels."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any

from lab.errors import LabError, TunnelRefused, UsageError
from lab.results import SetupRecord, describe_setup
from lab.scenario.place import PlacedNode

if TYPE_CHECKING:
    from lab.scenario.node import LabNode


class TunnelNode(PlacedNode):
    """A node that can have a tunnel."""

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
        mechanism is ANONYMOUS.  `lan` names the neighbour on whose link a delegated prefix is announced; without a
        `prefix_length` it is a /64.  How patient the client is: `connect_timeout_s` for TCP, `first_packet_timeout_s`
        for an echo through the new tunnel, and `options`, which are fields of `lab.tsp.Retransmission`.
        """
        from lab.actors.client import TunnelClient
        from lab.tsp import PORT, ClientConfig, Mechanism, Retransmission, TunnelType

        self._must_be("client", "connect_tunnel")
        patience = {field.name for field in fields(Retransmission)}
        if unknown := options.keys() - patience:
            known = sorted(patience | inspect.signature(self.attempt_tunnel).parameters.keys() - {"broker", "options"})
            raise UsageError(f"a tunnel has no option {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        if self._tunnel is not None:
            await self.disconnect_tunnel()
        server = self.lab[broker]
        if self.ipv4 is None or server.ipv4 is None:
            raise UsageError(f"{self.name} and {server.name} need IPv4 addresses for a tunnel over IPv4")
        lan_iface = None if lan is None else self._link_to(lan)
        if lan is not None and prefix_length is None:
            prefix_length = 64
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
            (server.ipv4, int(server.plan.options.get("port", PORT))),
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
        self.lab.record(record)
        if lan_iface is not None and report.outcome == "ready":
            await self._announce(report.prefix, lan_iface)
        return record

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

    @property
    def tunnel_alive(self) -> bool | None:
        """Whether the tunnel's keepalives are answered, as far as this end knows; None without a tunnel."""
        return None if self._tunnel is None else self._tunnel.alive

    def tunnel_counters(self) -> dict[str, int]:
        """What the tunnel carried and dropped, by reason (`lab.encap.Drop`), and its `icmp_errors`; empty without one.

        Of a tunnel that the kernel's own device carries, only the errors are counted here.
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
        loop = asyncio.get_running_loop()
        while self._tunnel is not None and (keepalive := self._tunnel.keepalive) is not None:
            due, margin_s = keepalive.next_echo, min(margin_s, keepalive.interval_s / 4)
            if due is None:
                return
            if due - margin_s <= loop.time():  # too late for this one
                await asyncio.sleep(due + margin_s - loop.time())
                continue
            await asyncio.sleep(due - margin_s - loop.time())
            if keepalive.next_echo == due:  # else the machine stood still, and the keepalive went out first
                return

    def _link_to(self, lan: str) -> str:
        iface = next((i.name for i in self.plan.interfaces if i.peer == lan), None)
        if iface is None:
            raise UsageError(f"{self.name} has no link to {lan!r} to announce a prefix on")
        return iface

    async def _announce(self, prefix: IPv6Network | None, iface: str) -> None:
        from lab.actors.advertise import Advertiser

        if prefix is None:
            raise LabError(f"{self.name} was given no prefix that it could announce")
        self._advertiser = Advertiser(self.namespace, iface, prefix)
        await self._advertiser.start()


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
