"""What the lab imports of other people, for a Python that is not the lab's own: the system's, which runs `mn`.

They are taken from the environment that `scripts/lab` makes, which is made first where there is none.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from lab.errors import MissingFeature

_CHECKOUT: Final = Path(__file__).resolve().parent.parent.parent
_NEEDED: Final = {"networkx": (3,), "defusedxml": (0,), "pyroute2": (0, 9)}
"""Those that a network of Mininet's needs, and from which version on (Debian has its own, older)."""


def make_importable() -> None:
    """Let this Python import them.  Raises MissingFeature where there is no environment for its version."""
    if all(_version(name) >= least for name, least in _NEEDED.items()):
        return
    script = 'source "$1/scripts/environment.sh" && use_environment run && echo "$venv"'
    asked = subprocess.run(
        ["bash", "-c", script, Path(sys.argv[0]).name, str(_CHECKOUT)],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    own = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = Path(asked.stdout.strip() or "/nowhere", "lib", own, "site-packages")
    if asked.returncode != 0 or not folder.is_dir():
        raise MissingFeature(
            f"an environment of the lab for {own}, which runs this",
            instead=f"start it with {_CHECKOUT}/scripts/lab mn, or set LAB_PYTHON to {sys.executable}",
        )
    sys.path.insert(0, str(folder))


def _version(name: str) -> tuple[int, ...]:
    """Major and minor number; empty for a package that is not there."""
    try:
        return tuple(int(number) for number in metadata.version(name).split(".")[:2])
    except (metadata.PackageNotFoundError, ValueError):
        return ()
