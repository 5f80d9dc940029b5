"""Carry out a plan: namespaces, links, addresses, routes and rules, in few and large netlink messages.

Consecutive `AddLink` steps go out together; the other netlink steps are gathered per namespace and sent in their
order before the next kind of step needs them.  When `build` comes back every link carries packets and every address
answers: see `lab.kernel.settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from lab.errors import KernelRefused
from lab.kernel import links, netlink, nft, settle
from lab.kernel.namespace import Namespace, raise_descriptor_limit
from lab.kernel.netlink import Request
from lab.topology.plan import (
    AddAddress,
    AddBridge,
    AddLink,
    AddNeighbor,
    AddNode,
    AddRoute,
    LoadRules,
    Plan,
    Prohibit,
    SetSysctl,
    SetUp,
    Shape,
    Step,
)


class Fabric(Mapping[str, Namespace]):
    """The namespaces of a plan by node name; `close` lets all of them go."""

    def __init__(self) -> None:
        self._nodes: dict[str, Namespace] = {}

    def __getitem__(self, name: str) -> Namespace:
        return self._nodes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, ns: Namespace) -> None:
        """Take a namespace in, under its name."""
        self._nodes[ns.name] = ns

    def close(self) -> None:
        """Let go of every namespace; the kernel removes them when no socket or process is left in them."""
        for ns in self._nodes.values():
            ns.close()
        self._nodes.clear()

    def __enter__(self) -> Fabric:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build(plan: Plan, *, on_step: Callable[[Step], None] | None = None) -> Fabric:
    """The namespaces of `plan`, built; `on_step` is called with each step as its turn comes.

    Raises KernelRefused naming node and operation; nothing is left of a build that failed.
    """
    raise_descriptor_limit()
    fabric = Fabric()
    try:
        builder = _Builder(fabric)
        for step in plan.steps:
            if on_step is not None:
                on_step(step)
            builder.take(step)
        builder.finish()
    except BaseException:
        fabric.close()
        raise
    return fabric


def carry_out(fabric: Fabric, steps: Iterable[Step]) -> None:
    """Carry out `steps` in namespaces that are there already, made and joined by somebody else.

    Raises KernelRefused.  What the steps ask for is there when this comes back; whether links carry packets yet is
    for the caller to wait for.
    """
    builder = _Builder(fabric)
    for step in steps:
        builder.take(step)
    builder.finish()


class _Builder:
    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._sysctls: dict[str, dict[str, str]] = {}
        self._late_sysctls: dict[str, dict[str, str]] = {}
        self._links: list[AddLink] = []
        self._requests: dict[str, list[Request]] = {}
        self._rules: dict[Namespace, str] = {}
        self._up: set[tuple[str, str]] = set()
        self._ends: list[AddLink] = []
        self._addresses: list[AddAddress] = []

    def take(self, step: Step) -> None:
        match step:
            case AddNode(node):
                self._add_node(node)
            case SetSysctl(node, key, value):
                self._set_sysctl(node, key, value)
            case AddLink():
                self._flush(sysctls=True, requests=True)
                self._links.append(step)
            case AddBridge(node, iface, index, mac, ports):
                self._request(node, netlink.add_bridge(iface, index, mac))
                for port in ports:
                    self._request(node, netlink.set_master(port, iface, index))
            case AddAddress(node, iface, index, address):
                self._request(node, netlink.add_address(iface, index, address))
                self._addresses.append(step)
            case SetUp(node, iface, index):
                self._request(node, netlink.set_up(iface, index))
                self._up.add((node, iface))
            case AddRoute(node, dst, via, _, index):
                self._request(node, netlink.add_route(dst, via, index))
            case AddNeighbor(node, iface, index, address, mac):
                self._request(node, netlink.add_neighbor(iface, index, address, mac))
            case Prohibit(node, mark):
                self._request(node, netlink.prohibit(mark))
            case LoadRules(node, text):
                ns = self._node(node)
                if ns in self._rules:
                    self._flush(rules=True)
                self._rules[ns] = text
            case Shape(node, iface):
                self._flush(sysctls=True, links=True, requests=True)
                from lab.kernel import shaping

                shaping.apply(self._node(node), iface, step)

    def finish(self) -> None:
        self._flush(sysctls=True, links=True, requests=True, rules=True)
        for node, settings in self._late_sysctls.items():
            self._node(node).sysctls(settings)
        self._settle()
        for ns in self._fabric.values():
            ns.close_netlink()

    def _node(self, name: str) -> Namespace:
        try:
            return self._fabric[name]
        except KeyError:
            raise KernelRefused(name, "carry out the plan", 0, "no step made this node") from None

    def _add_node(self, name: str) -> None:
        if name in self._fabric:
            raise KernelRefused(name, "make a network namespace", 0, "the plan makes it twice")
        self._fabric.add(Namespace.create(name))
        self._request(name, netlink.set_up("lo", 1))

    def _set_sysctl(self, node: str, key: str, value: str) -> None:
        if key.startswith("net/netfilter/"):  # exist once the rules have brought connection tracking in
            self._late_sysctls.setdefault(node, {})[key] = value
            return
        # A key such as net/ipv6/conf/eth0/... exists once its interface does: links come first.
        self._flush(links=True)
        if "/conf/" in key or "/neigh/" in key:
            self._flush_requests_of(node)
        self._sysctls.setdefault(node, {})[key] = value

    def _request(self, node: str, request: Request) -> None:
        self._flush(links=True)
        if node in self._sysctls:
            self._node(node).sysctls(self._sysctls.pop(node))
        self._requests.setdefault(node, []).append(request)

    def _flush_requests_of(self, node: str) -> None:
        if requests := self._requests.pop(node, None):
            self._node(node).netlink.do(requests)

    def _flush(
        self, *, sysctls: bool = False, links: bool = False, requests: bool = False, rules: bool = False
    ) -> None:
        if sysctls and self._sysctls:
            for node, settings in self._sysctls.items():
                self._node(node).sysctls(settings)
            self._sysctls.clear()
        if links and self._links:
            self._make_links(self._links)
            self._links = []
        if requests and self._requests:
            for node in list(self._requests):
                self._flush_requests_of(node)
        if rules and self._rules:
            nft.load_many(self._rules)
            self._rules = {}

    def _make_links(self, steps: list[AddLink]) -> None:
        requests = []
        for step in steps:
            a, b = self._node(step.a), self._node(step.b)
            made = netlink.add_veth(
                step.a_iface, step.a_index, step.a_mac, a.fd, step.b_iface, step.b_index, step.b_mac, b.fd, step.mtu
            )
            requests.append(Request(f"add link {step.a}:{step.a_iface} to {step.b}:{step.b_iface}", made.data))
        # Each message says in which namespaces its two ends belong.  Before Linux 6.13 the kernel looks for the near
        # end's index in the namespace the message came from, too: an empty one has none of them.
        with Namespace.create(steps[0].a) as nursery:
            nursery.netlink.do(requests)
        for step in steps:
            if not step.offload:
                links.disable_offloads(self._node(step.a), step.a_iface)
                links.disable_offloads(self._node(step.b), step.b_iface)
        self._ends += steps

    def _settle(self) -> None:
        """Wait until every link whose two ends were set up carries packets, and the addresses there are usable."""
        links: dict[Namespace, list[tuple[str, int]]] = {}
        carrying: set[tuple[str, str]] = set()
        for step in self._ends:
            ends = (step.a, step.a_iface, step.a_index), (step.b, step.b_iface, step.b_index)
            if all(end[:2] in self._up for end in ends):
                for node, iface, index in ends:
                    links.setdefault(self._node(node), []).append((iface, index))
                    carrying.add((node, iface))
        settle.links_carry(links)
        addresses: dict[Namespace, list[str]] = {}
        for given in self._addresses:
            if ":" in given.address and (given.node, given.iface) in carrying:
                addresses.setdefault(self._node(given.node), []).append(given.address)
        settle.addresses_answer(addresses)
