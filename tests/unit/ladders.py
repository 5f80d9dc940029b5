"""A run folder made by hand: captures of packets that tests send along a path, without a kernel."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from lab.run import Run
from lab.topology.network import Network
from lab.topology.plan import AddLink, Plan
from lab.topology.planner import make_plan
from lab.tsp import PORT, Header, format_header

UP_S: Final = 1_700_000_000
"""When the network was up."""
CLIENT_PORT: Final = 40_000
INNER: Final = (
    bytes.fromhex("60000000000c3a40")
    + bytes.fromhex("20010db8f00000000000000000000001")
    + bytes.fromhex("20010db8000000010000000000000002")
    + bytes.fromhex("8000000012340007") + b"ping"
)  # fmt: skip
"""An ICMPv6 echo request through a tunnel."""


def home() -> Plan:
    """laptop - nat - internet - broker - server."""
    net = Network("home")
    laptop, nat, internet = net.client("laptop"), net.nat("nat"), net.router("internet")
    broker, server = net.broker("broker"), net.host("server", ipv6_only=True)
    net.link(laptop, nat)
    net.link(nat, internet)
    net.link(internet, broker)
    net.link(broker, server)
    return make_plan(net)


def filtered(policy: str = "drop_3653") -> Plan:
    """laptop - firewall - internet - broker."""
    net = Network("filtered")
    laptop, firewall, internet = net.client("laptop"), net.firewall("firewall", policy=policy), net.router("internet")
    net.link(laptop, firewall)
    net.link(firewall, internet)
    net.link(internet, net.broker("broker"))
    return make_plan(net)


@dataclass
class Recorder:
    """Sends packets along paths of a plan and keeps what the captures would have."""

    plan: Plan
    frames: dict[tuple[str, str], list[tuple[int, bytes]]] = field(default_factory=dict)
    identification: int = 100

    def address(self, node: str) -> str:
        return next(n.ipv4 or "" for n in self.plan.nodes if n.name == node)

    def send(
        self,
        at_ms: float,
        path: list[str],
        payload: bytes,
        *,
        nat: dict[str, tuple[str, int] | None] | None = None,
        back: bool = False,
        protocol: int = 17,
        hop_ms: float = 0.01,
        lost: bool = False,
    ) -> None:
        """An IPv4 packet from the first node of `path` to the last; `nat` says who changes the client's end to what.

        `back`: from the broker to the client.  `lost`: what leaves the last but one node never arrives.
        """
        links = {
            ends: step
            for step in self.plan.steps
            if isinstance(step, AddLink)
            for ends in ((step.a, step.b), (step.b, step.a))
        }
        broker = (self.address("broker"), PORT)
        client: tuple[str, int] = (self.address("laptop"), CLIENT_PORT)
        if back and nat:
            client = next(end for end in nat.values() if end is not None)
        self.identification += 1
        t, ttl = at_ms, 64
        for number, (a, b) in enumerate(pairwise(path)):
            link = links[a, b]
            if number and nat and a in nat:
                client = (self.address("laptop"), CLIENT_PORT) if back else (nat[a] or client)
            source, target = (broker, client) if back else (client, broker)
            upper = (
                payload if protocol == 41 else struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload
            )
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(upper), self.identification, 0x4000, ttl, protocol, 0)
            packet = header + IPv4Address(source[0]).packed + IPv4Address(target[0]).packed + upper
            from_mac, to_mac = (link.a_mac, link.b_mac) if link.a == a else (link.b_mac, link.a_mac)
            frame = bytes.fromhex((to_mac + from_mac).replace(":", "")) + b"\x08\x00" + packet
            out_iface, in_iface = (link.a_iface, link.b_iface) if link.a == a else (link.b_iface, link.a_iface)
            self._see(t, a, out_iface, frame)
            t += hop_ms
            if not (lost and b == path[-1]):
                self._see(t, b, in_iface, frame)
            ttl -= 1

    def _see(self, at_ms: float, node: str, iface: str, frame: bytes) -> None:
        t_ns = UP_S * 1_000_000_000 + round(at_ms * 1e6)
        self.frames.setdefault((node, iface), []).append((t_ns, frame))

    def run(
        self, folder: Path, records: list[dict[str, Any]], counters: dict[str, dict[str, int]] | None = None
    ) -> Run:
        """The folder that a run with these records would have left, read back."""
        captures = []
        for (node, iface), frames in self.frames.items():
            file = folder / f"{node}-{iface}.pcap"
            data = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
            for t_ns, frame in sorted(frames):
                data += struct.pack("<IIII", t_ns // 10**9, t_ns % 10**9, len(frame), len(frame)) + frame
            file.write_bytes(data)
            captures.append({"node": node, "iface": iface, "file": file.name, "packets": len(frames), "dropped": 0})
        trial = {"records": records, "counters": counters or {}, "captures": captures, "up_at_s": float(UP_S)}
        facts = {
            "topology": self.plan.name,
            "title": "A run made by hand",
            "status": "ok",
            "parameters": {},
            "seed": 1,
            "engine": "host",
            "kernel": {},
            "nodes": self.plan.to_json()["nodes"],
            "trials": [trial],
        }
        (folder / "plan.json").write_text(json.dumps(self.plan.to_json()))
        (folder / "run.json").write_text(json.dumps(facts))
        return Run.load(folder)


def signalling(sequence: int, text: bytes, timestamp: int = 5) -> bytes:
    """A TSP message over UDP."""
    return format_header(Header(sequence, timestamp)) + text


def setup(**fields: Any) -> dict[str, Any]:
    """A set-up as run.json has it."""
    usual = {
        "kind": "setup",
        "node": "laptop",
        "at_s": 0.0,
        "broker": "broker",
        "outcome": "ready",
        "transport": "udp",
        "requested": "v6anyv4",
        "type": "v6udpv4",
        "phases_s": {"version": 0.002, "create": 0.002, "first_packet": 0.002},
        "total_s": 0.004,
        "client_ipv6": "2001:db8:f000::1",
        "server_ipv6": "2001:db8:f000::2",
    }
    return {**usual, **fields}
