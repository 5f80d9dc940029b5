"""A report as text for a person: the rows of tables."""

from __future__ import annotations

from typing import Final

from lab.detect.findings import Finding, Report, clock

WHO: Final = ("", "mechanism", "packets", "bytes", "seconds", "who")
WHY: Final = ("", "sure", "filter (RFC 7123), and what it was recognised by")
_INNER_SHOWN: Final = 2


def summary(report: Report) -> str:
    """What the capture is, and what should be known of it: a line each."""
    lines = [f"{report.packets} packets"]
    if report.first_s is not None and report.last_s is not None:
        began = clock(report.first_s)
        lines[0] += f" in {report.last_s - report.first_s:.3f} s" + (f", from {began} UTC" if began else "")
    if not report.findings:
        lines[0] += ": no transition mechanism"
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])


def who(report: Report) -> list[tuple[str, ...]]:
    """A row under each title of `WHO` for each finding; times are seconds since the capture began."""
    start = report.first_s or 0.0
    return [
        (
            str(number),
            _name(finding),
            str(finding.packets),
            str(finding.bytes),
            f"{finding.first_s - start:.3f} - {finding.last_s - start:.3f}",
            _ends(finding),
        )
        for number, finding in enumerate(report.findings, 1)
    ]


def why(report: Report) -> list[tuple[str, ...]]:
    """A row under each title of `WHY` for each finding."""
    return [
        (str(number), str(finding.confidence), f"{_filter(finding)}.  {_sentence(finding.why)}")
        for number, finding in enumerate(report.findings, 1)
    ]


def _name(finding: Finding) -> str:
    return f"{finding.mechanism} ({finding.carrier})" if finding.carrier in ("udp", "tcp") else str(finding.mechanism)


def _ends(finding: Finding) -> str:
    text = " > ".join(finding.outer)
    if finding.inner:
        more = len(finding.inner) + finding.inner_more - _INNER_SHOWN
        text += f" ({' '.join(finding.inner[:_INNER_SHOWN])}{f' and {more} more' if more > 0 else ''})"
    return text


def _filter(finding: Finding) -> str:
    rule = f"section {finding.filter.section}: {finding.filter.rule}"
    return rule if finding.filter.stops else f"{rule}, does not stop these: {finding.filter.instead}"


def _sentence(parts: tuple[str, ...]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]
