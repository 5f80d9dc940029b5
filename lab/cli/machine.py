"""Verbs about the virtual kernel (kernel build, kernel info) and real machines (broker, client)."""

from __future__ import annotations

import dataclasses
import functools
import json
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.common import EXIT_DONE, Json, app, member, print_json, print_table, say, verb
from lab.errors import UsageError

if TYPE_CHECKING:
    from lab.actors.report import SetupReport

kernel = typer.Typer(help="Build the virtual kernel, or tell what it is.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(kernel, name="kernel", epilog="Example: lab kernel build")


@verb("lab kernel build", kernel)
def build(
    jobs: Annotated[int | None, typer.Option(min=1, help="Compilers at once [default: one a processor].")] = None,
) -> int:
    """Build the virtual kernel from the distribution's source.

    Takes some minutes, once; the result is kept in the cache.
    """
    from lab.engines import uml

    print(uml.build(jobs=jobs, progress=say).path)
    return EXIT_DONE


@verb("lab kernel info --json", kernel)
def info(as_json: Json = False) -> int:
    """Tell which virtual kernel is used and what it can do."""
    from lab.engines import uml

    found = dataclasses.asdict(uml.require())
    if as_json:
        print_json(found)
    else:
        found["options"] = " ".join(found["options"])
        print_table(("", ""), [(key, str(value)) for key, value in found.items()])
    return EXIT_DONE


@verb("lab broker --pool 2001:db8:f000::/36 --users users.txt --database broker.db")
def broker(
    pool: Annotated[str, typer.Option(metavar="PREFIX", help="The IPv6 prefix that clients get theirs from.")],
    address: Annotated[
        str | None, typer.Option(metavar="IPV4", help="Where to listen [default: the default route's address].")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Accounts to add, a line each: NAME:PASSWORD.")
    ] = None,
    database: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps accounts and leases [default: in memory].")
    ] = None,
    anonymous: Annotated[bool, typer.Option(help="Serve clients without an account too.")] = True,
    realm: Annotated[str, typer.Option(help="Realm of the accounts, for DIGEST-MD5.")] = "lab",
    device: Annotated[str, typer.Option(help="Name of the tunnel device.")] = "tsp0",
    mtu: Annotated[int, typer.Option(help="MTU of the tunnels, in bytes.")] = 1280,
) -> int:
    """Serve tunnels on this machine.

    Ends with SIGINT or SIGTERM.  Listens on UDP and TCP port 3653, in the network namespace it is started in.
    Needs root, or CAP_NET_ADMIN and CAP_NET_RAW.
    """
    from lab.actors.standalone import run_broker

    return run_broker(
        pool=_network(pool),
        address=_ipv4(address) if address is not None else None,
        database=database,
        users=_accounts(users) if users is not None else {},
        anonymous=anonymous,
        realm=realm,
        device=device,
        mtu=mtu,
        say=say,
    )


@verb("lab client broker.example.net --tunnel v6anyv4 --user ann")
def client(
    broker: Annotated[str, typer.Argument(metavar="BROKER", help="The broker: name or IPv4 address, or either:port.")],
    tunnel: Annotated[str, typer.Option(help="v6anyv4 (the broker decides), v6v4 or v6udpv4.")] = "v6anyv4",
    transport: Annotated[str, typer.Option(help="udp, tcp, or auto: UDP, and TCP when that gets no answer.")] = "auto",
    user: Annotated[str | None, typer.Option(help="Account at the broker [default: anonymous].")] = None,
    password: Annotated[
        str | None, typer.Option(envvar="LAB_PASSWORD", help="Its password; better in the environment.")
    ] = None,
    mechanism: Annotated[
        str | None, typer.Option(help="ANONYMOUS, PLAIN or DIGEST-MD5 [default: the best both have].")
    ] = None,
    prefix_length: Annotated[int | None, typer.Option(help="Ask for a prefix of this length too.")] = None,
    lan: Annotated[
        str | None, typer.Option(metavar="INTERFACE", help="Announce the prefix there: this machine is its router.")
    ] = None,
    device: Annotated[str, typer.Option(help="Name of the tunnel device.")] = "tsp0",
    mtu: Annotated[int, typer.Option(help="MTU of the tunnel, in bytes.")] = 1280,
    keepalive: Annotated[int, typer.Option(metavar="SECONDS", help="Keepalive interval to ask for.")] = 30,
    default_route: Annotated[bool, typer.Option(help="Send all IPv6 through the tunnel.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print each set-up as a line of JSON.")] = False,
) -> int:
    """Get a tunnel for this machine and hold it.

    Ends with SIGINT or SIGTERM.  Works in the network namespace it is started in.  Needs root, or CAP_NET_ADMIN and
    CAP_NET_RAW.  Exit status 1 when the first set-up fails; a tunnel that dies later is set up again.
    """
    from lab.actors.standalone import ClientWish, run_client
    from lab.tsp import Mechanism, TunnelType

    if user is not None and password is None:
        raise UsageError("--user needs a password: set LAB_PASSWORD in the environment, or use --password")
    wish = ClientWish(
        broker=broker,
        tunnel=member(TunnelType, "--tunnel", tunnel),
        transport=transport,
        user=user,
        password=password,
        mechanism=member(Mechanism, "--mechanism", mechanism.upper()) if mechanism is not None else None,
        prefix_length=prefix_length,
        lan=lan,
        device=device,
        mtu=mtu,
        keepalive_interval_s=keepalive,
        default_route=default_route,
    )
    return run_client(wish, on_report=functools.partial(_tell_setup, as_json), say=say)


def _tell_setup(as_json: bool, report: SetupReport) -> None:
    from lab.results import SetupRecord, describe_setup

    if as_json:
        print(json.dumps(report.to_json()), flush=True)
        return
    record = SetupRecord.from_json({"node": "", "at_s": 0.0, **report.to_json()})
    prefix = f", prefix {record.prefix}" if record.prefix else ""
    print(f"{describe_setup(record)}{prefix}", flush=True)


def _network(text: str) -> IPv6Network:
    try:
        return IPv6Network(text)
    except ValueError as exc:
        raise UsageError(f"--pool {text}: not an IPv6 prefix ({exc})") from exc


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError as exc:
        raise UsageError(f"--address {text}: not an IPv4 address") from exc


def _accounts(path: Path) -> dict[str, str]:
    """Users and passwords of a file with a line NAME:PASSWORD each; empty lines and those with # are not read."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from exc
    accounts = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not name or not colon or not password:
            raise UsageError(f"{path}:{number}: write NAME:PASSWORD")
        accounts[name] = password
    return accounts
