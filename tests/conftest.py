"""Which tests this machine can run, and what a failed kernel test leaves to look at.

A test says what it needs of the machine (`@pytest.mark.needs("nft_nat")`, names in `lab.kernel.caps`; or "program
nmap").  Whether that is there is decided by probing, before the test runs; what is lacking is a skip with its reason
in the closing summary, or a failure under --require-kernel.  A test never catches an error to decide that it should
have been skipped.
"""

from __future__ import annotations

import functools
import gc
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.kernel.caps import Capabilities
    from lab.kernel.namespace import Namespace

KERNEL_TESTS_NEED: Final = ("namespaces", "veth")
"""What every test marked `kernel` needs."""

SUBSTITUTED: Final = frozenset({"netem", "sit", "tun", "program chromium"}) | (
    frozenset() if os.environ.get("CI") else {"program ovs-vswitchd"}
)
"""What --require-kernel does not ask for: features that kernels in the field lack and the lab has another way for, and
a browser.  Open vSwitch has Linux bridges in its place; in continuous integration scripts/test installs it."""

FAILED: Final = Path(__file__).parent.parent / "build" / "failed"
"""Where the run folders of failed tests are kept."""

_CAP_SYS_ADMIN: Final = 21
_MOST_NODES_SHOWN: Final = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lab")
    group.addoption(
        "--require-kernel",
        action="store_true",
        help=f"fail, not skip, tests that need a feature this kernel lacks (not: {', '.join(sorted(SUBSTITUTED))})",
    )
    group.addoption(
        "--require-every-feature", action="store_true", help="fail, not skip, tests that need any lacking feature"
    )


def pytest_configure() -> None:
    """Let programs that tests start hear Ctrl-C, though whoever started the tests (nohup, a shell's &) does not."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Together(LoadScopeScheduling):
    """Hands out tests one by one, but those of a file with a fixture for the whole module together: it is made once.

    The largest groups begin first.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _has_module_fixture(file) else nodeid


@functools.cache
def _has_module_fixture(file: str) -> bool:
    return 'scope="module"' in (Path(__file__).parent.parent / file).read_text()


@pytest.hookimpl(optionalhook=True)  # there need not be xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """How tests are shared out among several workers."""
    return _Together(config, log)


@pytest.fixture(scope="session")
def caps() -> Capabilities:
    """What this kernel can do, tried once."""
    return probed()


@functools.cache
def probed() -> Capabilities:
    from lab.kernel.caps import probe

    return probe()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail, a test whose needs this machine does not meet, before any of its fixtures is set up."""
    for feature in _needs(item):
        reason = _lacking(feature)
        if reason is None:
            continue
        config = item.config
        if config.getoption("--require-every-feature") or (
            config.getoption("--require-kernel") and feature not in SUBSTITUTED
        ):
            pytest.fail(f"needs {feature}: {reason}", pytrace=False)
        pytest.skip(f"needs {feature}: {reason}")


def _needs(item: pytest.Item) -> Iterator[str]:
    if item.get_closest_marker("kernel"):
        yield from KERNEL_TESTS_NEED
    if item.get_closest_marker("virtual"):
        yield "virtual"
    for marker in item.iter_markers("needs"):
        yield from marker.args


def _lacking(feature: str) -> str | None:
    """Why `feature` is not to be had here, or None if it is.  A name that caps does not know is an error."""
    if feature == "virtual":
        return _no_virtual_kernel()
    if feature.startswith("program "):
        from lab.kernel.programs import missing_program

        return missing_program(feature.removeprefix("program "))
    if feature == "mininet":
        from lab.kernel import stock_mininet

        return stock_mininet.lacking()
    if not _may_make_namespaces():
        return "this process may not make network namespaces; run the tests with scripts/test"
    capability = probed()[feature]
    return None if capability.ok else "; ".join(part for part in (capability.detail, capability.instead) if part)


@functools.cache
def _no_virtual_kernel() -> str | None:
    from lab.engines import uml

    try:
        uml.require()
    except LabError as exc:
        return str(exc)
    return None


@functools.cache
def _may_make_namespaces() -> bool:
    """Whether this very process may: the probe also counts namespaces it would have to enter first."""
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> _CAP_SYS_ADMIN & 1)


# --- what a failed kernel test leaves --------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the state of every node, and the run folder, to the report of a kernel test that failed."""
    report = yield
    if report.failed and call.when != "teardown" and item.get_closest_marker("kernel"):
        for namespace in _open_namespaces()[:_MOST_NODES_SHOWN]:
            report.sections.append((f"node {namespace.name}", _state(namespace)))
        kept = _keep_folders(item)
        if kept:
            report.sections.append(("run folders", "\n".join(kept)))
    return report


def _open_namespaces() -> list[Namespace]:
    """The namespaces that tests have not closed yet, in order of name."""
    from lab.kernel.namespace import Namespace

    found = [thing for thing in gc.get_objects() if isinstance(thing, Namespace) and thing.fd >= 0]
    return sorted(found, key=lambda namespace: namespace.name)


def _state(namespace: Namespace) -> str:
    """Addresses, routes and rules, as the usual tools tell them."""
    told = []
    commands = ("ip -brief address", "ip route", "ip -6 route", "ip -statistics -brief link", "nft list ruleset")
    with namespace.entered():
        for command in commands:
            try:
                done = subprocess.run(command.split(), capture_output=True, text=True, timeout=10, check=False)
                told.append(f"$ {command}\n{done.stdout}{done.stderr}".rstrip())
            except (OSError, subprocess.TimeoutExpired) as exc:
                told.append(f"$ {command}\n{exc}")
    return "\n".join(told)


def _keep_folders(item: pytest.Item) -> list[str]:
    """Copy the run folders and captures under the test's tmp_path to build/failed; what was kept, as lines."""
    tmp_path = getattr(item, "funcargs", {}).get("tmp_path")
    if tmp_path is None or not any((*tmp_path.rglob("*.json*"), *tmp_path.rglob("*.pcap"))):
        return []
    kept = FAILED / re.sub(r"[^\w.-]+", "_", item.nodeid)
    shutil.rmtree(kept, ignore_errors=True)
    try:
        shutil.copytree(tmp_path, kept, symlinks=True, ignore_dangling_symlinks=True)
    except (OSError, shutil.Error) as exc:
        return [f"could not keep {tmp_path}: {exc}"]
    lines = [f"kept in {kept.relative_to(FAILED.parent.parent)}:"]
    for file in sorted(kept.rglob("*")):
        if file.is_file():
            lines.append(f"  {file.relative_to(kept)}  {file.stat().st_size} bytes")
    for log in sorted(kept.rglob("log.jsonl")):
        last = log.read_text(errors="replace").splitlines()[-20:]
        lines += [f"the end of {log.relative_to(kept)}:", *(f"  {line}" for line in last)]
    return lines


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the same environment on a developer's machine and in CI."""
    for name in [name for name in os.environ if name.startswith("LAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
