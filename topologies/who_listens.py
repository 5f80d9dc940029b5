"""Who listens on port 3653? Three programs look, from inside and from outside, and do not agree.

    laptop --- firewall --- internet --- broker
                               |
                               +-------- forgotten
                               |
                               +-------- server

ss and lsof run on a machine and read which sockets it has: they are never wrong, and see no other machine. nmap
runs on the laptop and sees what comes back. For TCP that tells three cases apart: an answer (open), a reset
(closed), nothing (filtered). UDP has no handshake. A closed port answers with an ICMP error, but a broker that is
sent an empty datagram says nothing, just like a firewall that drops it: both are "open|filtered". Only a question
the broker understands (VERSION, RFC 5572 section 4.4.2) gets an answer out of it.

The broker that somebody forgot listens on port 8653. For a scan of port 3653 it does not exist, and a filter for
port 3653 (RFC 7123 section 3.7) does not touch it. Found it is by ss on the machine, by a scan of all ports, and by
what it says in a capture: scripts/lab detect, on the capture of laptop-eth0 that this run leaves.

Try:  scripts/lab run who_listens
"""

from lab import Lab, Network, Run
from lab.results import CommandRecord

PROGRAMS = ("ss", "lsof", "nmap")

VERSION = (b"\xf0\0\0\xf0" + bytes(4) + b"VERSION=2.0.0\r\n").hex()
SCAN = ["nmap", "-n", "-Pn", "-sS", "-sU", "-p", "T:3653,U:3653"]
ASK = ["nmap", "-n", "-Pn", "-sU", "--data", VERSION]


def build(net: Network) -> None:
    laptop = net.client("laptop")
    firewall = net.firewall("firewall")
    internet = net.router("internet")
    broker = net.broker("broker")
    forgotten = net.broker("forgotten", pool="2001:db8:e000::/36", port=8653)
    server = net.host("server")
    net.link(laptop, firewall)
    net.link(firewall, internet)
    net.link(internet, broker)
    net.link(internet, forgotten)
    net.link(internet, server)


async def scenario(net: Lab) -> None:
    laptop, firewall = net["laptop"], net["firewall"]
    for node in ("broker", "forgotten", "server"):
        await net[node].run(["ss", "-H", "-n", "-l", "-t", "-u"])
        await net[node].run(["lsof", "-n", "-P", "-i", ":3653"])
        await laptop.run([*SCAN, net[node].ipv4])
    await laptop.run([*ASK, "-p", "3653", net["broker"].ipv4])
    await laptop.run(["nmap", "-n", "-Pn", "-sS", "-p", "3000-9000", net["forgotten"].ipv4])

    await firewall.set_policy("drop_3653")
    await laptop.run([*SCAN, net["broker"].ipv4])
    await laptop.run([*ASK, "-p", "3653", net["broker"].ipv4])
    await laptop.run([*ASK, "-p", "8653", net["forgotten"].ipv4])
    await firewall.set_policy("reject_3653")
    await laptop.run([*SCAN, net["broker"].ipv4])


def check(run: Run) -> None:
    # From inside: what there is. lsof ends with status 1 when it finds nothing.
    sockets, files = run.commands("broker")
    assert sockets.stdout.count(":3653 ") == 2
    assert "UDP" in files.stdout
    assert "(LISTEN)" in files.stdout
    sockets, files = run.commands("forgotten")
    assert sockets.stdout.count(":8653 ") == 2
    assert (files.returncode, files.stdout) == (1, "")
    sockets, files = run.commands("server")
    assert sockets.stdout == files.stdout == ""

    # From outside: what comes back.
    scanned, wrong_port, closed, asked, searched, dropped, asked_in_vain, escaped, rejected = run.commands("laptop")
    assert ports(scanned) == {"3653/tcp": "open", "3653/udp": "open|filtered"}
    assert ports(asked) == {"3653/udp": "open"}
    assert ports(closed) == ports(wrong_port) == {"3653/tcp": "closed", "3653/udp": "closed"}
    assert ports(searched) == {"8653/tcp": "open"}

    # Through a filter. Dropped looks to UDP as an open port does; a rejecting firewall lies about TCP.
    assert ports(dropped) == {"3653/tcp": "filtered", "3653/udp": "open|filtered"}
    assert ports(asked_in_vain) == {"3653/udp": "open|filtered"}
    assert ports(rejected) == {"3653/tcp": "closed", "3653/udp": "filtered"}
    assert ports(escaped) == {"8653/udp": "open"}
    found = [(one.mechanism, one.outer[1]) for one in run.detect("laptop", "eth0").findings if one.carrier == "udp"]
    assert ("TSP control", f"{run.address('forgotten', 'eth0')}:8653") in found


def ports(command: CommandRecord) -> dict[str, str]:
    """What nmap says of each port: {"3653/tcp": "open", ...}."""
    words = [line.split() for line in command.stdout.splitlines()]
    return {line[0]: line[1] for line in words if line and line[0].endswith(("/tcp", "/udp"))}
