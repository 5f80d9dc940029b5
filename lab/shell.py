"""A terminal on a node of a network that is up.

Every node appears under /run/netns of the private mount namespace, so that the tools people know work from any
node: `ip -n nat address`, `ip netns exec broker ss -lun`.  The mounts go away with the namespace.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from lab.kernel import libc
from lab.scenario import Lab

_CHECKOUT = Path(__file__).parent.parent


async def hand_over(lab: Lab, node: str, argv: list[str]) -> int:
    """Run `argv` (an interactive shell when empty) on `node` with this process's terminal; its exit status."""
    here = lab[node]
    _name_namespaces(lab)
    environment = {
        **os.environ,
        "PATH": f"{_CHECKOUT / 'scripts'}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "LAB_NODE": here.name,
    }
    if not argv:
        print(_introduction(lab, here.name), file=sys.stderr)
        # Commands from a pipe want no prompt, and bash would complain that it has no terminal.
        argv = ["bash", "--rcfile", str(_startup_file(here.name)), "-i"] if os.isatty(0) else ["bash"]
    # Ctrl-C belongs to the program on the terminal; the brokers go on.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        program = here.namespace.popen(argv, env=environment, foreground=True)
        return await program.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _startup_file(node: str) -> Path:
    """A start-up file for bash: the person's own, then a prompt that says which node this is."""
    file = Path("/run/lab-shell")
    file.write_text(f"[ -f ~/.bashrc ] && . ~/.bashrc\nPS1='{node}:\\w# '\n")
    return file


def _name_namespaces(lab: Lab) -> None:
    folder = Path("/run/netns")
    folder.mkdir(exist_ok=True)
    for node in lab:
        target = folder / node.name
        target.touch()
        libc.mount(f"/proc/self/fd/{node.namespace.fd}", str(target), None, libc.MS_BIND)


def _introduction(lab: Lab, here: str) -> str:
    lines = [f"The network is up and you are on {here}; leave with 'exit' and it is gone."]
    for node in lab:
        addresses = ", ".join(address for address in (node.ipv4, node.ipv6) if address)
        lines.append(f"  {node.name:<12} {node.kind:<9} {addresses}")
    broker = next((node for node in lab if node.kind == "broker"), None)
    if broker is not None and lab[here].kind == "client":
        lines.append(f"Try:  lab client {broker.ipv4}      a tunnel, with the client in the foreground")
    lines.append("Try:  ip -n NODE address    ip netns exec NODE tcpdump -ni any    nft list ruleset")
    return "\n".join(lines)
