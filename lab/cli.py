"""The command line: `lab VERB ...`.

Results go to standard output (`--json` for machines), progress and logs to standard error.  Exit status: 0 done, 1 a
check failed, 2 usage, 3 the kernel or a privilege lacks something, 130 interrupted.  An error the lab raises on
purpose is told in a sentence, never as a traceback.

The verbs import what they need when they run, so that `lab --help` is quick.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

import lab
from lab.errors import KernelRefused, LabError, MissingFeature, TopologyError, UsageError

if TYPE_CHECKING:
    from lab.actors.report import SetupReport
    from lab.topology.plan import Plan

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_MISSING: Final = 3
EXIT_INTERRUPTED: Final = 130

app = typer.Typer(
    name="lab",
    help="A network simulation lab for IPv6 transition and the Tunnel Setup Protocol (RFC 5572).",
    epilog="Start with: lab demo",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A topology's name (see 'lab list') or the path of its .py file.")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line (this process's own by default) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command: list[str] | None = None
    if arguments[:1] == ["shell"] and "--" in arguments:
        # What follows belongs to the command on the node, whether a node is named or not.
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    elif arguments[:1] == ["mn"] and arguments[1:] not in (["--help"], []):
        arguments, command = arguments[:1], arguments[1:]  # Mininet's own
    _look_in_sbin()
    try:
        app(arguments, prog_name="lab", obj=command)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else EXIT_FAILED
    return EXIT_DONE


def _look_in_sbin() -> None:
    """Extend the PATH to where nft and ip are: Debian's ordinary users do not have it there."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path += [folder for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin") if folder not in path]
    os.environ["PATH"] = os.pathsep.join(path)


def exit_status(error: LabError) -> int:
    """The exit status that an error means."""
    if isinstance(error, UsageError | TopologyError):
        return EXIT_USAGE
    if isinstance(error, MissingFeature | KernelRefused):
        return EXIT_MISSING
    return EXIT_FAILED


def _verb(example: str, group: typer.Typer = app) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function that returns an exit status a verb, its errors told, with an example under its --help."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def told(*args: Any, **kwargs: Any) -> None:
            try:
                status = function(*args, **kwargs)
            except LabError as exc:
                _say(str(exc))
                status = exit_status(exc)
            except KeyboardInterrupt:
                _say("interrupted")
                status = EXIT_INTERRUPTED
            raise typer.Exit(status)

        name = function.__name__.rstrip("_")  # list_ is the verb list
        group.command(name, epilog=f"Example: {example}")(told)
        return function

    return register


def _say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns side by side; the last one wraps on a terminal and stays whole in a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 250, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(head):
        last = number == len(head) - 1
        table.add_column(column, no_wrap=not last, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lab {lab.__version__}")
        raise typer.Exit


@app.callback()
def _before_any_verb(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Log more; -vv logs messages.")
    ] = 0,
) -> None:
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


# --- what there is ---------------------------------------------------------------------------------------------


@_verb("lab check --json")
def check(as_json: Json = False) -> int:
    """Tell what this machine can do and how to get the rest.

    Exit status 3 when something is missing that no network can be built without.
    """
    from lab.engines import uml
    from lab.kernel import leftovers, stock_mininet
    from lab.kernel.caps import probe

    capabilities, kernel = list(probe()), uml.find()
    left = leftovers.find()
    usable = all(capability.ok for capability in capabilities if capability.name in ESSENTIAL)
    if as_json:
        features = [
            {"name": c.name, "ok": c.ok, "essential": c.name in ESSENTIAL, "detail": c.detail, "instead": c.instead}
            for c in capabilities
        ]
        _print_json(
            {"usable": usable, "features": features, "virtual_kernel": None if kernel is None else kernel.key}
            | {"left_by_mininet": [dataclasses.asdict(thing) for thing in left]}
        )
    else:
        rows = [
            (c.name, "yes" if c.ok else "NO" if c.name in ESSENTIAL else "no", c.detail if c.ok else _way_out(c))
            for c in capabilities
        ]
        _print_table(("feature", "here", "what it is, or the way out"), rows)
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
        if left:
            print("\nA Mininet that was killed has left:")
            _print_table(("what", "remove it, as root, with"), [(thing.what, thing.remove) for thing in left])
    return EXIT_DONE if usable else EXIT_MISSING


ESSENTIAL: Final = frozenset({"namespaces", "veth", "nft"})
"""Capabilities that no topology does without."""


def _way_out(capability: Any) -> str:
    return "; ".join(part for part in (capability.detail, capability.instead) if part)


@_verb("lab list")
def list_(as_json: Json = False) -> int:
    """List the topologies, each with its lesson."""
    from lab.topology import catalog

    found = catalog.list_topologies()
    if as_json:
        _print_json([dataclasses.asdict(topology) for topology in found])
    else:
        _print_table(("topology", "lesson"), [(t.name, t.title) for t in found])
    return EXIT_DONE


@_verb("lab show home_nat --out home_nat.svg")
def show(
    name: Name,
    out: Annotated[Path | None, typer.Option(help="Draw the topology into this .svg or .png file.")] = None,
    settings: Set = None,
    as_json: Json = False,
) -> int:
    """Show a topology: lesson, nodes, addresses, a drawing."""
    from lab.topology import catalog
    from lab.topology.planner import make_plan

    topology = catalog.load(name)
    values = catalog.bind_parameters(topology, _parameters(settings))
    plan = make_plan(catalog.build_network(topology, values))
    if out is not None:
        if out.suffix not in (".svg", ".png"):
            raise UsageError(f"{out}: a drawing is an .svg or a .png file")
        from lab.draw import draw

        try:
            draw(plan, out, title=topology.title)
        except OSError as exc:
            raise UsageError(f"cannot write {out}: {exc.strerror}") from exc
        _say(f"drawn in {out}")
    if as_json:
        _print_json({"parameters": values, "plan": plan.to_json()})
        return EXIT_DONE
    print(topology.doc.strip(), end="\n\n")
    if values:
        _print_table(
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
    _print_table(("node", "kind", "interface", "to", "addresses"), rows)


def _parameters(settings: Sequence[str] | None, option: str = "--set") -> dict[str, str]:
    """What `--set KEY=VALUE` said; the last one of a key counts."""
    values = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise UsageError(f"{option} {setting}: write KEY=VALUE, for example {option} delay_ms=50")
        values[key] = value
    return values


def _positive(option: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"{option} {value:g}: a number of seconds, more than 0")
    return value


# --- networks --------------------------------------------------------------------------------------------------


@_verb("lab run home_nat --set delay_ms=50 --seed 7 --out home_nat_50")
def run(
    name: Name,
    settings: Set = None,
    on: Annotated[str, typer.Option(help="The kernel to run on: auto, host, virtual or mininet.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; a fresh one is drawn and kept.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="How often to repeat the scenario.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run [default: runs/NAME-TIME].")] = None,
    start_time: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Virtual kernel: its clock at the start, since 1970.")
    ] = None,
    real_time: Annotated[bool, typer.Option("--real-time", help="Virtual kernel: keep to real time.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Of the lab's time, for the scenario [default: the topology's, else 600]."
        ),
    ] = None,
    wall_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of the clock on the wall, for the whole run.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Measure impaired links and classify NATs before the scenario.")] = True,
    as_json: Json = False,
) -> int:
    """Build a topology, run its scenario, check the outcome.

    What happened is printed; the run folder keeps all figures (run.json) and a capture of every interface.
    """
    from lab.run import run as run_topology

    done = run_topology(
        name,
        on=on,
        seed=seed,
        trials=trials,
        out=out,
        parameters=_parameters(settings),
        start_time_s=start_time,
        real_time=real_time,
        timeout_s=_positive("--timeout", timeout),
        wall_timeout_s=_positive("--wall-timeout", wall_timeout),
        verify=verify,
        progress=_say,
    )
    if as_json:
        _print_json(done.to_json())
    else:
        print("\n".join(done.summary()))
    return EXIT_DONE if done.status == "ok" else EXIT_FAILED


@_verb("lab nat carrier --set ports=random --on virtual")
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
            _print_json(list_presets())
        else:
            _print_table(("preset", "box"), [(name, str(kind["text"])) for name, kind in list_presets().items()])
        return EXIT_DONE
    found = ask(preset, _parameters(settings), on=on, timers=timers, progress=_say)
    if as_json:
        _print_json(found)
    else:
        _print_table(("property", "asked", "found", "same", "why"), rows_of(found))
    return EXIT_FAILED if found["wrong"] else EXIT_DONE


@_verb("lab sweep setup_time --vary delay_ms=5,20,80 --vary transport=udp,tcp --trials 5 --out setup.parquet")
def sweep(
    name: Name,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table, a Parquet file; goes on with one it began.")],
    vary: Annotated[
        list[str] | None, typer.Option(metavar="KEY=A,B,C", help="Vary a parameter over values; may be repeated.")
    ] = None,
    settings: Set = None,
    trials: Annotated[int, typer.Option(min=1, help="How often to repeat each cell, in one boot.")] = 10,
    seed: Annotated[int | None, typer.Option(help="Seed of the sweep; each cell's is derived from it.")] = None,
    on: Annotated[str, typer.Option(help="The kernel to run on: virtual or host.")] = "virtual",
    jobs: Annotated[int | None, typer.Option(min=1, help="Cells at a time [default: one for each CPU].")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, whose workers run the cells.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only the cells with this value; may be repeated.")
    ] = None,
    paired: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Give cells that differ only in this parameter the same seed."),
    ] = None,
    capture: Annotated[bool, typer.Option("--capture", help="Record packets and ask the topology's check.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run cells with failed trials again.")] = False,
    as_json: Json = False,
) -> int:
    """Run a topology over a grid of parameters, into one table.

    What was done is kept: the same command goes on where it was interrupted.  pandas.read_parquet(FILE) reads the
    table.  Exit status 1 when a trial failed; the table has its row, with the reason.
    """
    from lab import stats
    from lab.sweep import sweep as run_sweep

    values = {key: value.split(",") for key, value in _parameters(vary, "--vary").items()}
    done = run_sweep(
        name,
        values,
        trials=trials,
        seed=seed,
        on=on,
        out=out,
        scheduler=scheduler,
        jobs=jobs,
        parameters=_parameters(settings),
        paired=paired or (),
        only=_parameters(only, "--only"),
        capture=capture,
        retry_failed=retry_failed,
    )
    failures = done.failures.drop_duplicates(["cell", "trial"])
    found = stats.summary(done) if "setup_s" in done.table else None
    if as_json:
        rows = [] if found is None else json.loads(found.to_json(orient="records"))
        again = {cell: done.rerun(cell) for cell in failures["cell"].unique()}
        _print_json({"path": str(out), "facts": done.facts, "summary": rows, "failed": again})
    else:
        if found is not None:
            _print_table(
                list(found.columns), [[_figure(value) for value in row] for row in found.itertuples(index=False)]
            )
            print()
        print(done)
        for _, row in failures.drop_duplicates("cell").iterrows():
            print(f"failed: {row['reason']}\n  again, with captures: {done.rerun(row['cell'])}")
        print(f"table in {out}")
    return EXIT_DONE if failures.empty else EXIT_FAILED


def _figure(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


@_verb("lab replay runs/home_nat-20260101-120000")
def replay(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run in virtual time.")],
    as_json: Json = False,
) -> int:
    """Run a run of the virtual kernel again and compare, to the last byte.

    Exit status 0 when the two are equal; 1 when they are not, with the first packet that differs.
    """
    from lab.replay import replay as run_again

    found = run_again(folder, progress=_say)
    if as_json:
        _print_json(found.to_json())
    else:
        for change in found.changed:
            print(f"changed since: {change}")
        print(f"equal: {found.after}" if found.equal else f"different at {found.difference}")
    return EXIT_DONE if found.equal else EXIT_FAILED


@_verb("lab ladder runs/home_nat-20260101-120000 --out ladder.svg")
def ladder(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    node: Annotated[str | None, typer.Option(help="Whose set-up [default: the first client's].")] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Which of its attempts, counted from 1 [default: the last].")
    ] = None,
    trial: Annotated[int, typer.Option(min=0, help="Which trial, counted from 0.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Draw into this .svg, .png or .pdf file [default: RUN_DIR/ladder.svg].")
    ] = None,
) -> int:
    """Draw who sent what when in a set-up, from the captures of every node.

    TSP is decoded, a NAT's rewriting is written on the arrow, and a packet that was dropped ends where it was, with
    the rule's name.  In an .svg file a packet that is pointed at tells all about itself.
    """
    from lab.run import Run

    trials = Run.load(folder).trials
    if trial >= len(trials):
        raise UsageError(f"{folder} has {len(trials)} trials, numbered from 0; there is no number {trial}")
    picture = trials[trial].ladder(node, None if attempt is None else attempt - 1)
    print(picture.save(folder / "ladder.svg" if out is None else out))
    return EXIT_DONE


@_verb("lab report runs/home_nat-20260101-120000")
def report(
    source: Annotated[Path, typer.Argument(metavar="RUN_DIR|TABLE", help="A run's folder, or a sweep's Parquet file.")],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file [default: RUN_DIR/report.html, or beside the table].")
    ] = None,
) -> int:
    """Tell a run, or a sweep, in one HTML file.

    Of a run: topology, ladders, phases, tables, how to run it again.  Of a sweep: plots and figures.  The file needs
    nothing else, and can be sent to somebody.
    """
    from lab.run import Run

    if source.is_dir() or source.suffix != ".parquet":
        print(Run.load(source).report(out))
        return EXIT_DONE
    from lab.report.sweep import write_sweep
    from lab.sweep import Sweep

    print(write_sweep(Sweep.load(source), source.with_suffix(".html") if out is None else out))
    return EXIT_DONE


@_verb("lab detect runs/home_nat-20260101-120000/laptop-eth0.pcap")
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
    """List the transition mechanisms in a capture: who, when, how much.

    With the filter of RFC 7123 that would stop each.  TSP and IPv6 in UDP are found on any port.
    """
    from lab.detect import detect as look_into
    from lab.detect.protocol41 import parse_sixrd
    from lab.detect.text import WHO, WHY, summary, who, why

    report = look_into(file, [parse_sixrd(text) for text in sixrd or ()])
    if as_json:
        _print_json(report.to_json())
        return EXIT_DONE
    print(summary(report))
    if report.findings:
        print()
        _print_table(WHO, who(report))
        print()
        _print_table(WHY, why(report))
    return EXIT_DONE


@_verb("lab policies --plot policies.png")
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
            _print_json(told)
            return EXIT_DONE
        for part in told["parts"]:
            section = f" (RFC 7123 section {part['section']})" if part["section"] else ""
            print(f"{part['policy']} {part['does']}{section}. {part['note']}".rstrip())
        print(f"\n{told['nftables']}", end="")
        return EXIT_DONE
    if plot is not None:
        crossings = catalogue.measure(on=on, progress=_say)
        catalogue.plot(crossings, plot)
        _say(f"drawn in {plot}")
        if as_json:
            _print_json([dataclasses.asdict(crossing) for crossing in crossings])
        return EXIT_DONE
    rows = catalogue.listed()
    if as_json:
        _print_json(rows)
    else:
        print("A policy is allow, or drop_ or reject_ with one of these; join several with +.\n")
        _print_table(
            ("filter", "RFC 7123", "stops", ""), [(r["filter"], r["section"], r["stops"], r["note"]) for r in rows]
        )
    return EXIT_DONE


@_verb("lab explain firewall_3653 --from laptop --to broker --udp 3653 --policy drop_3653")
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
        policy=policy,
        after=after or (),
        parameters=_parameters(settings),
        on=on,
        progress=_say,
    )
    if as_json:
        _print_json(dataclasses.asdict(record))
    elif table:
        head = ("", "node", "in", "out", "packet", "what happened")
        columns = ("node", "iface_in", "iface_out", "packet", "happened")
        rows = [(str(number), *(hop[key] for key in columns)) for number, hop in enumerate(record.hops, 1)]
        _print_table(head, rows)
        print(f"\nThe packet was {record.verdict}")
    else:
        print("\n".join(record.told))
    return EXIT_DONE


@_verb("lab shell home_nat laptop -- ip address")
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

    return open_shell(name, node, _parameters(settings), context.obj or None)


@_verb("lab mn --topo tsp,home_nat,delay_ms=0 --test tsp")
def mn(context: typer.Context) -> int:
    """Run Mininet's mn, or a Mininet script, in namespaces of its own.

    The arguments are those of mn, to which lab/mn.py adds every topology, a test and commands; or a .py file and its
    arguments.  Needs no root where the system allows user namespaces.  The exit status is the program's.
    """
    from lab.engines.mininet import run_program

    return run_program(context.obj or [])


@_verb("lab demo")
def demo(as_json: Json = False) -> int:
    """Show tunnels at work, and what a firewall does to them.

    Over UDP through a NAT, over TCP, in protocol 41, and each with a filter in its way.
    """
    from lab.demo import main as show_demo

    return show_demo(as_json=as_json, progress=_say)


# --- the virtual kernel ----------------------------------------------------------------------------------------

kernel = typer.Typer(help="Build the virtual kernel, or tell what it is.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(kernel, name="kernel", epilog="Example: lab kernel build")


@_verb("lab kernel build", kernel)
def build(
    jobs: Annotated[int | None, typer.Option(min=1, help="Compilers at once [default: one a processor].")] = None,
) -> int:
    """Build the virtual kernel from the distribution's source.

    Takes some minutes, once; the result is kept in the cache.
    """
    from lab.engines import uml

    print(uml.build(jobs=jobs, progress=_say).path)
    return EXIT_DONE


@_verb("lab kernel info --json", kernel)
def info(as_json: Json = False) -> int:
    """Tell which virtual kernel is used and what it can do."""
    from lab.engines import uml

    found = dataclasses.asdict(uml.require())
    if as_json:
        _print_json(found)
    else:
        found["options"] = " ".join(found["options"])
        _print_table(("", ""), [(key, str(value)) for key, value in found.items()])
    return EXIT_DONE


# --- the broker and the client on a real machine ---------------------------------------------------------------


@_verb("lab broker --pool 2001:db8:f000::/36 --users users.txt --database broker.db")
def broker(
    pool: Annotated[str, typer.Option(metavar="PREFIX", help="The IPv6 prefix that clients get theirs from.")],
    address: Annotated[
        str | None, typer.Option(metavar="IPV4", help="Where to listen [default: the default route's address].")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Accounts to add, a line each: NAME:PASSWORD.")
    ] = None,
    database: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps accounts and leases [default: in memory].")
    ] = None,
    anonymous: Annotated[bool, typer.Option(help="Serve clients without an account too.")] = True,
    realm: Annotated[str, typer.Option(help="Realm of the accounts, for DIGEST-MD5.")] = "lab",
    device: Annotated[str, typer.Option(help="Name of the tunnel device.")] = "tsp0",
    mtu: Annotated[int, typer.Option(help="MTU of the tunnels, in bytes.")] = 1280,
) -> int:
    """Serve tunnels on this machine.

    Ends with SIGINT or SIGTERM.  Listens on UDP and TCP port 3653, in the network namespace it is started in.
    Needs root, or CAP_NET_ADMIN and CAP_NET_RAW.
    """
    from lab.actors.standalone import run_broker

    return run_broker(
        pool=_network(pool),
        address=_ipv4(address) if address is not None else None,
        database=database,
        users=_accounts(users) if users is not None else {},
        anonymous=anonymous,
        realm=realm,
        device=device,
        mtu=mtu,
        say=_say,
    )


@_verb("lab client broker.example.net --tunnel v6anyv4 --user ann")
def client(
    broker: Annotated[str, typer.Argument(metavar="BROKER", help="The broker: name or IPv4 address, or either:port.")],
    tunnel: Annotated[str, typer.Option(help="v6anyv4 (the broker decides), v6v4 or v6udpv4.")] = "v6anyv4",
    transport: Annotated[str, typer.Option(help="udp, tcp, or auto: UDP, and TCP when that gets no answer.")] = "auto",
    user: Annotated[str | None, typer.Option(help="Account at the broker [default: anonymous].")] = None,
    password: Annotated[
        str | None, typer.Option(envvar="LAB_PASSWORD", help="Its password; better in the environment.")
    ] = None,
    mechanism: Annotated[
        str | None, typer.Option(help="ANONYMOUS, PLAIN or DIGEST-MD5 [default: the best both have].")
    ] = None,
    prefix_length: Annotated[int | None, typer.Option(help="Ask for a prefix of this length too.")] = None,
    lan: Annotated[
        str | None, typer.Option(metavar="INTERFACE", help="Announce the prefix there: this machine is its router.")
    ] = None,
    device: Annotated[str, typer.Option(help="Name of the tunnel device.")] = "tsp0",
    mtu: Annotated[int, typer.Option(help="MTU of the tunnel, in bytes.")] = 1280,
    keepalive: Annotated[int, typer.Option(metavar="SECONDS", help="Keepalive interval to ask for.")] = 30,
    default_route: Annotated[bool, typer.Option(help="Send all IPv6 through the tunnel.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print each set-up as a line of JSON.")] = False,
) -> int:
    """Get a tunnel for this machine and hold it.

    Ends with SIGINT or SIGTERM.  Works in the network namespace it is started in.  Needs root, or CAP_NET_ADMIN and
    CAP_NET_RAW.  Exit status 1 when the first set-up fails; a tunnel that dies later is set up again.
    """
    from lab.actors.standalone import ClientWish, run_client
    from lab.tsp import Mechanism, TunnelType

    if user is not None and password is None:
        raise UsageError("--user needs a password: set LAB_PASSWORD in the environment, or use --password")
    wish = ClientWish(
        broker=broker,
        tunnel=_member(TunnelType, "--tunnel", tunnel),
        transport=transport,
        user=user,
        password=password,
        mechanism=_member(Mechanism, "--mechanism", mechanism.upper()) if mechanism is not None else None,
        prefix_length=prefix_length,
        lan=lan,
        device=device,
        mtu=mtu,
        keepalive_interval_s=keepalive,
        default_route=default_route,
    )
    return run_client(wish, on_report=functools.partial(_tell_setup, as_json), say=_say)


def _tell_setup(as_json: bool, report: SetupReport) -> None:
    from lab.results import SetupRecord, describe_setup

    if as_json:
        print(json.dumps(report.to_json()), flush=True)
        return
    record = SetupRecord.from_json({"node": "", "at_s": 0.0, **report.to_json()})
    prefix = f", prefix {record.prefix}" if record.prefix else ""
    print(f"{describe_setup(record)}{prefix}", flush=True)


_E = TypeVar("_E", bound=Enum)


def _member(kind: type[_E], option: str, value: str) -> _E:
    try:
        return kind(value)
    except ValueError as exc:
        raise UsageError(f"{option} {value}: choose from {', '.join(str(m.value) for m in kind)}") from exc


def _network(text: str) -> IPv6Network:
    try:
        return IPv6Network(text)
    except ValueError as exc:
        raise UsageError(f"--pool {text}: not an IPv6 prefix ({exc})") from exc


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError as exc:
        raise UsageError(f"--address {text}: not an IPv4 address") from exc


def _accounts(path: Path) -> dict[str, str]:
    """Users and passwords of a file with a line NAME:PASSWORD each; empty lines and those with # are not read."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from exc
    accounts = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not name or not colon or not password:
            raise UsageError(f"{path}:{number}: write NAME:PASSWORD")
        accounts[name] = password
    return accounts
