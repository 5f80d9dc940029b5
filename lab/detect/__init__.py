"""Transition mechanisms in captures: which, who, when, how much, and which filter of RFC 7123 would stop them.

report = detect("laptop-eth0.pcap")
for finding in report.findings:
    print(finding.mechanism, finding.outer, finding.packets, finding.filter.rule)
"""

from lab.detect.detector import Detector, detect
from lab.detect.filters import Filter
from lab.detect.findings import Confidence, Finding, Report

__all__ = ["Confidence", "Detector", "Filter", "Finding", "Report", "detect"]
