"""`python -m lab` is the command line."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Carry out this process's command line; its exit status."""
    # What is imported takes a moment, in which Ctrl-C has nothing to tell: it ends the program without a traceback.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lab import cli

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
