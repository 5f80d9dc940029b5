"""A scenario that tries to get out: to the host's files and to its network.

laptop --- broker
"""

import errno
import socket

from lab import Lab, Network, Run


def build(net: Network, forbidden: str, allowed: str, port: int) -> None:
    net.link(net.client("laptop"), net.broker("broker"))


async def scenario(net: Lab) -> None:
    with open(net.parameters["allowed"], "w") as file:  # noqa: ASYNC230
        file.write("from inside")
    try:
        open(net.parameters["forbidden"], "w").close()  # noqa: ASYNC230
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise
    else:
        raise AssertionError("wrote outside of the run folder")
    try:
        socket.create_connection(("127.0.0.1", net.parameters["port"]), timeout=5).close()
    except OSError:
        return
    raise AssertionError("reached the host")


def check(run: Run) -> None:
    pass
