"""What the verbs of the command line share: the app, exit statuses, options, and how results are printed."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Annotated, Any, Final, TypeVar

import typer

from lab.errors import KernelRefused, LabError, MissingFeature, TopologyError, UsageError

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


def exit_status(error: LabError) -> int:
    """The exit status that an error means."""
    if isinstance(error, UsageError | TopologyError):
        return EXIT_USAGE
    if isinstance(error, MissingFeature | KernelRefused):
        return EXIT_MISSING
    return EXIT_FAILED


def verb(example: str, group: typer.Typer = app) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function that returns an exit status a verb, its errors told, with an example under its --help."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def told(*args: Any, **kwargs: Any) -> None:
            try:
                status = function(*args, **kwargs)
            except LabError as exc:
                say(str(exc))
                status = exit_status(exc)
            except KeyboardInterrupt:
                say("interrupted")
                status = EXIT_INTERRUPTED
            raise typer.Exit(status)

        name = function.__name__.rstrip("_")  # list_ is the verb list
        group.command(name, epilog=f"Example: {example}")(told)
        return function

    return register


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
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


def settings_of(settings: Sequence[str] | None, option: str = "--set") -> dict[str, str]:
    """What `--set KEY=VALUE` said; the last one of a key counts."""
    values = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise UsageError(f"{option} {setting}: write KEY=VALUE, for example {option} delay_ms=50")
        values[key] = value
    return values


def positive(option: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"{option} {value:g}: a number of seconds, more than 0")
    return value


_E = TypeVar("_E", bound=Enum)


def member(kind: type[_E], option: str, value: str) -> _E:
    try:
        return kind(value)
    except ValueError as exc:
        raise UsageError(f"{option} {value}: choose from {', '.join(str(m.value) for m in kind)}") from exc
