"""A ruleset in several texts, for who may not send all of it to the kernel in one message.

Loaded one after the other they make the same ruleset, though not in one step: what hooks into the kernel comes last, so
that no packet meets half of it.  Made for the texts of this package, in which every set, map and chain begins on a
line of its own and ends with a line of one bracket, and every rule is one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

_AT_ONCE: Final = 30_000
"""Characters; of rules it is about twice as many bytes of a message, of which everyone may send 200,000."""
_OPENS: Final = " {\n"


@dataclass(slots=True)
class _Block:
    """A set, a map or a chain."""

    table: str
    head: str
    lines: list[str] = field(default_factory=list)

    @property
    def is_chain(self) -> bool:
        return self.head.split()[0] == "chain"

    @property
    def hooks(self) -> bool:
        """Whether it is a chain that the kernel sends packets to."""
        return self.is_chain and any(" hook " in line for line in self.lines)


_Line = tuple[str, str, str]
"""A table's first line, a block's first line, and a line of the block or several that have to stay together."""


def pieces(ruleset: str, at_once: int = _AT_ONCE) -> list[str]:
    """Texts for `nft -f`, in the order to load them, each of some `at_once` characters at most, but for long lines."""
    blocks = list(_blocks(ruleset))
    plain = [block for block in blocks if block.is_chain and not block.hooks]
    lines: list[_Line] = [(b.table, b.head, "".join(b.lines)) for b in blocks if not b.is_chain]
    lines += [(chain.table, chain.head, "") for chain in plain]  # all are there before one jumps to another
    lines += [(b.table, b.head, line) for b in (*plain, *(b for b in blocks if b.hooks)) for line in b.lines]
    first = "flush ruleset\n" if ruleset.startswith("flush ruleset\n") else ""
    return [first + text if number == 0 else text for number, text in enumerate(_gather(lines, at_once))]


def _gather(lines: list[_Line], at_once: int) -> Iterator[str]:
    waiting: list[_Line] = []
    size = 0
    for line in lines:
        if waiting and size + len(line[2]) > at_once:
            yield _text(waiting)
            waiting, size = [], 0
        waiting.append(line)
        size += len(line[2])
    if waiting:
        yield _text(waiting)


def _text(lines: list[_Line]) -> str:
    found = []
    for (table, head), group in groupby(lines, key=lambda line: line[:2]):
        body = "".join(line for _, _, line in group)
        found.append(f"{table}{head}{body}\t}}\n}}\n")
    return "".join(found)


def _blocks(ruleset: str) -> Iterator[_Block]:
    table, block = "", None
    for line in ruleset.splitlines(keepends=True):
        if block is not None:
            if line == "\t}\n":
                yield block
                block = None
            else:
                block.lines.append(line)
        elif line.startswith("table ") and line.endswith(_OPENS):
            table = line
        elif table and line.startswith("\t") and line.endswith(_OPENS):
            block = _Block(table, line)
