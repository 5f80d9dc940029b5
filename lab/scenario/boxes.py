"""Brokers and firewalls: what they are told to do, and what they counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface
from typing import TYPE_CHECKING

from lab.errors import UsageError
from lab.results import CrossingRecord, PolicyRecord
from lab.scenario.place import PlacedNode

if TYPE_CHECKING:
    from lab.scenario.node import LabNode


class BoxNode(PlacedNode):
    """A node that can be a broker or a firewall."""

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
