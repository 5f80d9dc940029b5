"""The command line: `lab VERB ...`.

Results go to standard output (`--json` for machines), progress and logs to standard error.  Exit status: 0 done, 1 a
check failed, 2 usage, 3 the kernel or a privilege lacks something, 130 interrupted.  An error the lab raises on
purpose is told in a sentence, never as a traceback.

The verbs import what they need when they run, so that `lab --help` is quick.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

import lab
from lab.errors import KernelRefused, LabError, MissingFeature, TopologyError, UsageError

if TYPE_CHECKING:
    from lab.topology.catalog import TopologyModule
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
    try:
        app(arguments, prog_name="lab", obj=command)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else EXIT_FAILED
    return EXIT_DONE


def exit_status(error: LabError) -> int:
    """The exit status that an error means."""
    if isinstance(error, UsageError | TopologyError):
        return EXIT_USAGE
    if isinstance(error, MissingFeature | KernelRefused):
        return EXIT_MISSING
    return EXIT_FAILED


def _verb(example: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
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
        app.command(name, epilog=f"Example: {example}")(told)
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
    from lab.kernel.caps import probe

    capabilities = list(probe())
    usable = all(capability.ok for capability in capabilities if capability.name in ESSENTIAL)
    if as_json:
        features = [
            {"name": c.name, "ok": c.ok, "essential": c.name in ESSENTIAL, "detail": c.detail, "instead": c.instead}
            for c in capabilities
        ]
        _print_json({"usable": usable, "features": features})
    else:
        rows = [
            (c.name, "yes" if c.ok else "NO" if c.name in ESSENTIAL else "no", c.detail if c.ok else _way_out(c))
            for c in capabilities
        ]
        _print_table(("feature", "here", "what it is, or the way out"), rows)
        print(
            "\nNetworks can be built here." if usable else "\nNo network can be built here before each NO is answered."
        )
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
        _print_json([{"name": t.name, "title": t.title, "path": t.path, "parameters": t.parameters} for t in found])
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

    topology = _find(name)
    values = catalog.bind_parameters(topology, _parameters(settings))
    plan = make_plan(catalog.build_network(topology, values))
    if out is not None:
        from lab.draw import draw

        if out.suffix not in (".svg", ".png"):
            raise UsageError(f"{out}: a drawing is an .svg or a .png file")
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
        _print_table(("parameter", "value"), [(key, str(value)) for key, value in values.items()])
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


def _find(name: str) -> TopologyModule:
    """The topology called `name`, or in the file `name`; UsageError, with names that come close, if there is none."""
    from lab.topology import catalog

    if not name.endswith(".py"):
        known = [topology.name for topology in catalog.list_topologies()]
        if name not in known:
            import difflib

            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"there is no topology {name!r}; {hint}")
    return catalog.load(name)


def _parameters(settings: Sequence[str] | None) -> dict[str, str]:
    """What `--set KEY=VALUE` said; the last one of a key counts."""
    values = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise UsageError(f"--set {setting}: write KEY=VALUE, for example --set delay_ms=50")
        values[key] = value
    return values


# --- networks --------------------------------------------------------------------------------------------------


@_verb("lab run home_nat --set delay_ms=50 --seed 7 --out home_nat_50")
def run(
    name: Name,
    settings: Set = None,
    on: Annotated[str, typer.Option(help="The kernel to run on: auto or host.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; a fresh one is drawn and kept.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="How often to repeat the scenario.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run [default: runs/NAME-TIME].")] = None,
    as_json: Json = False,
) -> int:
    """Build a topology, run its scenario, check the outcome.

    What happened is printed; the run folder keeps all figures (run.json) and a capture of every interface.
    """
    from lab.run import run as run_topology

    _find(name)
    done = run_topology(name, on=on, seed=seed, trials=trials, out=out, parameters=_parameters(settings), progress=_say)
    if as_json:
        _print_json(done.to_json())
    else:
        print("\n".join(done.summary()))
    return EXIT_DONE if done.status == "ok" else EXIT_FAILED


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

    _find(name)
    return open_shell(name, node, _parameters(settings), context.obj or None)


@_verb("lab demo")
def demo(as_json: Json = False) -> int:
    """Show tunnels at work, and what a firewall does to them.

    Over UDP through a NAT, over TCP, in protocol 41, and each with a filter in its way.
    """
    from lab.demo import main as show_demo

    return show_demo(as_json=as_json, progress=_say)
