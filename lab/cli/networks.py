"""Verbs about topologies and this machine: check, list, show, shell, mn, demo."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lab.cli.common import EXIT_DONE, EXIT_MISSING, Json, Name, Set, print_json, print_table, say, settings_of, verb
from lab.errors import UsageError
from lab.pictures import SCREEN, check_picture

if TYPE_CHECKING:
    from lab.topology.plan import Plan


@verb("lab check --json")
def check(as_json: Json = False) -> int:
    """Tell what this machine can do and how to get the rest.

    Exit status 3 when something is missing that no network can be built without.
    """
    from lab.engines import uml
    from lab.kernel import leftovers, open_vswitch, stock_mininet
    from lab.kernel.caps import probe

    capabilities, kernel, switches = list(probe()), uml.find(), open_vswitch.find()
    left = leftovers.find()
    usable = all(capability.ok for capability in capabilities if capability.name in ESSENTIAL)
    if as_json:
        features = [
            {"name": c.name, "ok": c.ok, "essential": c.name in ESSENTIAL, "detail": c.detail, "instead": c.instead}
            for c in capabilities
        ]
        print_json(
            {"usable": usable, "features": features, "virtual_kernel": None if kernel is None else kernel.key}
            | {"open_vswitch": dataclasses.asdict(switches)}
            | {"left_by_mininet": [dataclasses.asdict(thing) for thing in left]}
        )
    else:
        rows = [
            (c.name, "yes" if c.ok else "NO" if c.name in ESSENTIAL else "no", c.detail if c.ok else _way_out(c))
            for c in capabilities
        ]
        print_table(("feature", "here", "what it is, or the way out"), rows)
        print(
            "\nNetworks can be built here." if usable else "\nNo network can be built here before each NO is answered."
        )
        have = "not built; build it with: scripts/lab kernel build" if kernel is None else f"Linux {kernel.source}"
        print(f"Virtual kernel, with all of it and exact delays: {have}")
        lacking = stock_mininet.lacking()
        mininet = (
            "--on mininet and mn can be used" if lacking is None else f"lacks {lacking}; {stock_mininet.HOW_TO_INSTALL}"
        )
        print(f"Mininet: {mininet}")
        if lacking is None:
            kind = "bridges of Open vSwitch" if switches.datapath else "Linux bridges"
            print(f"Switches of a mn that root starts outside the lab: {kind}; {switches.why}")
        if left:
            print("\nA Mininet that was killed has left:")
            print_table(("what", "remove it, as root, with"), [(thing.what, thing.remove) for thing in left])
    return EXIT_DONE if usable else EXIT_MISSING


ESSENTIAL: Final = frozenset({"namespaces", "veth", "nft"})
"""Capabilities that no topology does without."""


def _way_out(capability: Any) -> str:
    return "; ".join(part for part in (capability.detail, capability.instead) if part)


@verb("lab list")
def list_(as_json: Json = False) -> int:
    """List the topologies, each with its lesson."""
    from lab.topology import catalog

    found = catalog.list_topologies()
    if as_json:
        print_json([dataclasses.asdict(topology) for topology in found])
    else:
        print_table(("topology", "lesson"), [(t.name, t.title) for t in found])
    return EXIT_DONE


@verb("lab show home_nat --out home_nat.svg")
def show(
    name: Name,
    out: Annotated[Path | None, typer.Option(help="Draw the topology into this .svg or .png file.")] = None,
    settings: Set = None,
    as_json: Json = False,
) -> int:
    """Show a topology: lesson, nodes, addresses, a drawing."""
    from lab.planned import planned

    if out is not None:
        check_picture(out, SCREEN)
    topology, values, plan = planned(name, settings_of(settings))
    if out is not None:
        from lab.draw import draw

        try:
            draw(plan, out, title=topology.title)
        except OSError as exc:
            raise UsageError(f"cannot write {out}: {exc.strerror}") from exc
        say(f"drawn in {out}")
    if as_json:
        print_json({"parameters": values, "plan": plan.to_json()})
        return EXIT_DONE
    print(topology.doc.strip(), end="\n\n")
    if values:
        print_table(
            ("parameter", "value", "may be set with --set"),
            [(key, str(value), topology.parameters[key].describe()) for key, value in values.items()],
        )
        print()
    _print_nodes(plan)
    return EXIT_DONE


def _print_nodes(plan: Plan) -> None:
    rows = []
    for node in plan.nodes:
        start = (node.name, node.kind)
        for interface in node.interfaces:
            addresses = " ".join(address for address in (interface.ipv4, interface.ipv6) if address)
            rows.append((*start, interface.name, interface.peer, addresses))
            start = ("", "")
    print_table(("node", "kind", "interface", "to", "addresses"), rows)


@verb("lab shell home_nat laptop -- ip address")
def shell(
    context: typer.Context,
    name: Name,
    node: Annotated[
        str | None, typer.Argument(metavar="NODE", help="The node to be on [default: the first client].")
    ] = None,
    settings: Set = None,
) -> int:
    """Build a topology and open a shell on a node.

    What follows -- is run there instead of a shell.  The network is gone when the shell ends.  The exit status is
    the shell's or the command's.
    """
    from lab.run import shell as open_shell

    return open_shell(name, node, settings_of(settings), context.obj or None)


@verb("lab mn --topo tsp,home_nat,delay_ms=0 --test tsp")
def mn(context: typer.Context) -> int:
    """Run Mininet's mn, or a Mininet script, in namespaces of its own.

    The arguments are those of mn, to which lab/mn.py adds every topology, a test and commands; or a .py file and its
    arguments.  Needs no root where the system allows user namespaces.  The exit status is the program's.
    """
    from lab.engines.mininet import run_program

    return run_program(context.obj or [])


@verb("lab demo")
def demo(as_json: Json = False) -> int:
    """Show tunnels at work, and what a firewall does to them.

    Over UDP through a NAT, over TCP, in protocol 41, and each with a filter in its way.
    """
    from lab.demo import main as show_demo

    return show_demo(as_json=as_json, progress=say)
