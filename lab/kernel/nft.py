"""nftables rulesets of one namespace: load a text atomically, read it back, read the counters of named rules.

Text goes through the `nft` program; the text itself is made by `lab.rules`.  Calls block for some milliseconds.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

from lab.errors import KernelRefused, MissingFeature
from lab.kernel.namespace import Namespace
from lab.rules.pieces import pieces

_TOO_LONG: Final = "Message too long"
_AT_ONCE: Final = 16
"""nft processes running at the same time in `load_many`."""


def load(ns: Namespace, text: str) -> None:
    """Load a ruleset text, all of it or nothing (begin it with `flush ruleset` to replace what was there).

    One that is too large for an ordinary user to load at once is loaded in pieces, the chains with hooks last: there
    are no rules meanwhile, and none after an error.  Raises KernelRefused with nft's own words.
    """
    load_many({ns: text})


def load_many(texts: Mapping[Namespace, str]) -> None:
    """Load one text in each namespace, several at a time.  Raises KernelRefused for the first that failed."""
    waiting = list(texts.items())
    while waiting:
        batch, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        with ExitStack() as stack:
            running = [(ns, text, stack.enter_context(_start(ns, ["-f", "-"]))) for ns, text in batch]
            for ns, text, process in running:
                _, err = process.communicate(text)
                if process.returncode != 0 and _TOO_LONG in err:
                    _load_in_pieces(ns, text)
                elif process.returncode != 0:
                    raise KernelRefused(ns.name, "load nftables rules", 0, _first_error(err))


def _load_in_pieces(ns: Namespace, text: str) -> None:
    """Only root may send the kernel as large a message as it likes."""
    for piece in pieces(text):
        with _start(ns, ["-f", "-"]) as process:
            _, err = process.communicate(piece)
        if process.returncode != 0:
            with _start(ns, ["flush", "ruleset"]) as process:
                process.communicate()
            raise KernelRefused(ns.name, "load nftables rules", 0, _first_error(err))


def list_ruleset(ns: Namespace) -> str:
    """The namespace's ruleset as text, counters included."""
    return _read(ns, ["list", "ruleset"])


def counters(ns: Namespace) -> dict[str, tuple[int, int]]:
    """(packets, bytes) of each named rule: rules with a comment and a counter, summed by comment."""
    found: dict[str, tuple[int, int]] = {}
    for item in json.loads(_read(ns, ["-j", "list", "ruleset"]))["nftables"]:
        rule: dict[str, Any] = item.get("rule", {})
        name = rule.get("comment")
        if name is None:
            continue
        for expression in rule["expr"]:
            # nft 1.0.6 writes statements it has no JSON for (a map update) as text.
            if isinstance(expression, dict) and isinstance(count := expression.get("counter"), dict):
                packets, octets = found.get(name, (0, 0))
                found[name] = (packets + count["packets"], octets + count["bytes"])
    return found


def _read(ns: Namespace, arguments: list[str]) -> str:
    with _start(ns, arguments) as process:
        out, err = process.communicate()
    if process.returncode != 0:
        raise KernelRefused(ns.name, "read nftables rules", 0, _first_error(err))
    return out


def _start(ns: Namespace, arguments: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    try:
        with ns.entered():
            return subprocess.Popen(["nft", *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except FileNotFoundError as exc:
        raise MissingFeature("the nft program", instead="install nftables (apt-get install nftables)") from exc


def _first_error(text: str) -> str:
    """nft's message with the line it complains of and the marks under it."""
    return "\n".join(text.strip().splitlines()[:3]) or "nft failed without a word"
