"""A story for a person, as text."""

from __future__ import annotations

from typing import Final

from lab.explain.story import Story

_DECIDES: Final = ("-> accept", "-> drop")
"""The rules that are told; bookkeeping and jumps are in the data only."""


def text(story: Story) -> list[str]:
    """The story told, a line each: hop by hop with the rules met, then the answers and the verdict."""
    lines = [f"{story.what} from {story.sender} to {story.receiver}: {story.packet}", ""]
    for number, hop in enumerate(story.hops, 1):
        way = " -> ".join(iface for iface in (hop.iface_in, hop.iface_out) if iface)
        lines.append(f"{number:>2}  {hop.node} ({hop.kind}{', ' + way if way else ''}): {hop.happened}")
        lines += [f"      {'rule':<9} {rule}" for rule in hop.rules if rule.endswith(_DECIDES)]
        if hop.flow:
            lines.append(f"      {'tracked':<9} {hop.flow}")
        if hop.iface_in and hop.iface_out:
            lines.append(f"      {'goes on':<9} {hop.packet}")
    for answer in story.answers:
        lines.append(
            f" <  {answer.node} answers: {answer.text}" + ("" if answer.reached_sender else ", which got lost")
        )
    return [*lines, "", f"The packet was {story.verdict}"]
