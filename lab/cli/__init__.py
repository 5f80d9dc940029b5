"""The command line: `lab VERB ...`.

Results go to standard output (`--json` for machines), progress and logs to standard error.  Exit status: 0 done, 1 a
check failed, 2 usage, 3 the kernel or a privilege lacks something, 130 interrupted.  An error the lab raises on
purpose is told in a sentence, never as a traceback.

The verbs import what they need when they run, so that `lab --help` is quick.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import lab
from lab.cli.common import EXIT_DONE, EXIT_FAILED, app

# Each makes its verbs known to the app, in the order of --help.
# isort: off
from lab.cli import networks, runs, rules, machine  # noqa: F401
# isort: on

__all__ = ["app", "main"]


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
