"""Names of stock Mininet for modules outside this package, which has found it by the time this is imported."""

from mininet.cli import CLI
from mininet.log import error, output
from mininet.net import Mininet
from mininet.util import ensureRoot, quietRun

__all__ = ["CLI", "Mininet", "ensureRoot", "error", "output", "quietRun"]
