"""Verbs about NATs, filters and packets: nat, policies, explain, detect."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from lab.cli.common import (
    EXIT_DONE,
    EXIT_FAILED,
    Json,
    Name,
    Set,
    print_json,
    print_table,
    say,
    settings_of,
    verb,
)
from lab.pictures import PAPER, check_picture


@verb("lab nat carrier --set ports=random --on virtual")
def nat(
    preset: Annotated[
        str | None, typer.Argument(metavar="PRESET", help="A kind of box; 'list' lists them [default: none].")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set an option; may be repeated.")
    ] = None,
    on: Annotated[str, typer.Option(help="The kernel to build it on: auto, host or virtual.")] = "auto",
    timers: Annotated[
        bool, typer.Option("--timers", help="On the host: measure timeouts too, which takes multiples of them.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Build a NAT, find out what it does to packets, and compare.

    Its inside hosts are ann and bob.  On the virtual kernel the timeouts are always measured.  Exit status 1 when it is
    not the NAT that was asked for.
    """
    from lab.nat import ask, list_presets, rows_of

    if preset == "list":
        if as_json:
            print_json(list_presets())
        else:
            print_table(("preset", "box"), [(name, str(kind["text"])) for name, kind in list_presets().items()])
        return EXIT_DONE
    found = ask(preset, settings_of(settings), on=on, timers=timers, progress=say)
    if as_json:
        print_json(found)
    else:
        print_table(("property", "asked", "found", "same", "why"), rows_of(found))
    return EXIT_FAILED if found["wrong"] else EXIT_DONE


@verb("lab detect runs/home_nat-20260101-120000/laptop-eth0.pcap")
def detect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A capture: pcap or pcapng.")],
    sixrd: Annotated[
        list[str] | None,
        typer.Option(
            "--6rd-prefix",
            metavar="PREFIX[,IPV4NETWORK]",
            help="A provider's 6rd prefix, and the IPv4 network all its customers are in; may be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """List the transition mechanisms in a capture.

    Each with who, when and how much, and the filter of RFC 7123 that would stop it.  TSP and IPv6 in UDP are found on
    any port.
    """
    from lab.detect import detect as look_into
    from lab.detect.protocol41 import parse_sixrd
    from lab.detect.text import WHO, WHY, summary, who, why

    report = look_into(file, [parse_sixrd(text) for text in sixrd or ()])
    if as_json:
        print_json(report.to_json())
        return EXIT_DONE
    print(summary(report))
    if report.findings:
        print()
        print_table(WHO, who(report))
        print()
        print_table(WHY, why(report))
    return EXIT_DONE


@verb("lab policies --plot policies.png")
def policies(
    policy: Annotated[
        str | None, typer.Argument(metavar="POLICY", help="Tell what this one does, and its nftables text.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure all of them and draw a heat map (PNG, SVG or PDF).")
    ] = None,
    on: Annotated[str, typer.Option(help="The kernel to measure on: auto, host or virtual.")] = "auto",
    as_json: Json = False,
) -> int:
    """List the firewall policies: the filters of RFC 7123 and others.

    Each filter makes two policies, drop_FILTER and reject_FILTER; join several with +.
    """
    from lab import policies as catalogue

    if policy is not None:
        told = catalogue.described(policy)
        if as_json:
            print_json(told)
            return EXIT_DONE
        for part in told["parts"]:
            section = f" (RFC 7123 section {part['section']})" if part["section"] else ""
            print(f"{part['policy']} {part['does']}{section}. {part['note']}".rstrip())
        print(f"\n{told['nftables']}", end="")
        return EXIT_DONE
    if plot is not None:
        check_picture(plot, PAPER)
        crossings = catalogue.measure(on=on, progress=say)
        catalogue.plot(crossings, plot)
        say(f"drawn in {plot}")
        if as_json:
            print_json([dataclasses.asdict(crossing) for crossing in crossings])
        return EXIT_DONE
    rows = catalogue.listed()
    if as_json:
        print_json(rows)
    else:
        print("A policy is allow, or drop_ or reject_ with one of these; join several with +.\n")
        print_table(
            ("filter", "RFC 7123", "stops", ""), [(r["filter"], r["section"], r["stops"], r["note"]) for r in rows]
        )
    return EXIT_DONE


@verb("lab explain firewall_3653 --from laptop --to broker --udp 3653 --policy drop_3653")
def explain(
    name: Name,
    sender: Annotated[str, typer.Option("--from", metavar="NODE", help="The node that sends.")],
    receiver: Annotated[str, typer.Option("--to", metavar="NODE|ADDRESS", help="Where the packet is to go.")],
    udp: Annotated[int | None, typer.Option(metavar="PORT", help="Send a UDP datagram to this port.")] = None,
    tcp: Annotated[int | None, typer.Option(metavar="PORT", help="Send a TCP SYN to this port.")] = None,
    proto: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Send a packet of this protocol; 41 is IPv6 inside IPv4.")
    ] = None,
    icmp: Annotated[bool, typer.Option("--icmp", help="Send an echo request.")] = False,
    mechanism: Annotated[
        str | None, typer.Option(help="Send a packet of this mechanism, for example teredo or 6to4.")
    ] = None,
    source_port: Annotated[int | None, typer.Option(metavar="PORT", help="Send it from this port.")] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="BYTES", help="Make it so large, IP header included; no router may fragment it."),
    ] = None,
    ttl: Annotated[int | None, typer.Option(metavar="HOPS", help="Give it so many hops to live.")] = None,
    policy: Annotated[str | None, typer.Option(help="Give all firewalls this policy (see 'lab policies').")] = None,
    after: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="Have this node send the same before; may be repeated.")
    ] = None,
    settings: Set = None,
    on: Annotated[str, typer.Option(help="The kernel to run on: auto, host or virtual.")] = "auto",
    table: Annotated[bool, typer.Option("--table", help="Print a table, a line for each node on the way.")] = False,
    as_json: Json = False,
) -> int:
    """Tell what becomes of one packet, and why.

    The topology is built and its brokers run; then the packet is sent and watched on every node: where it was
    translated, which rule let it through, which one dropped or rejected it, and what the sender was told.
    """
    from lab.why import explain as explain_packet

    record = explain_packet(
        name,
        sender,
        receiver,
        udp=udp,
        tcp=tcp,
        proto=proto,
        icmp=icmp,
        mechanism=mechanism,
        source_port=source_port,
        size=size,
        ttl=ttl,
        policy=policy,
        after=after or (),
        parameters=settings_of(settings),
        on=on,
        progress=say,
    )
    if as_json:
        print_json(dataclasses.asdict(record))
    elif table:
        head = ("", "node", "in", "out", "packet", "what happened")
        columns = ("node", "iface_in", "iface_out", "packet", "happened")
        rows = [(str(number), *(hop[key] for key in columns)) for number, hop in enumerate(record.hops, 1)]
        print_table(head, rows)
        print(f"\nThe packet was {record.verdict}")
    else:
        print("\n".join(record.told))
    return EXIT_DONE
