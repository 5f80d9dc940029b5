"""The same seed gives the same run to the last byte, whatever else the host does, and replay finds what differs.

The network is meant to be hard to repeat: a NAT, a link with jitter and loss, set-ups over UDP and over TCP.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from lab import wire
from lab.replay import first_difference, replay
from lab.run import Run, run

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(900)]

ROUGH: Final = Path(__file__).parent / "topologies" / "rough.py"
CHECKOUT: Final = Path(__file__).parent.parent.parent
AT_ONCE: Final = 2

IN_A_ROW: Final = 11
IN_DEEP_FOLDERS: Final = 4
ON_A_BUSY_HOST: Final = 4


def rough(folder: Path, seed: int = 1, delay_ms: float = 20) -> Run:
    """One run of the rough network."""
    done = run(str(ROUGH), on="virtual", seed=seed, out=folder, parameters={"delay_ms": delay_ms})
    assert done.status == "ok", done.message
    return done


def digest(done: Run) -> str:
    """The digest of everything a run determined."""
    return str(done.facts["digest"]["files"]["run"])


@contextmanager
def busy(processes: int = 2) -> Iterator[None]:
    """Programs that keep every processor busy; each ends by itself after a minute of processor time at the latest."""
    spin = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\nwhile True: pass"
    spinning = [subprocess.Popen([sys.executable, "-S", "-c", spin]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def by_hand(folder: Path, elsewhere: Path) -> Run:
    """The same run from a command line, in another folder, with another environment, umask, priority and stack."""
    subprocess.run(
        [sys.executable, "-P", "-m", "lab", "run", str(ROUGH), "--on", "virtual", "--seed", "1", "--out", str(folder)],
        cwd=elsewhere,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "PYTHONPATH": str(CHECKOUT),
            "TZ": "Asia/Kathmandu",
            "LANG": "C",
            "PYTHONHASHSEED": "7",
            "FILLER": "x" * 5000,
            **{name: os.environ[name] for name in ("XDG_CACHE_HOME",) if name in os.environ},
        },
        preexec_fn=_be_different,
        capture_output=True,
        check=True,
    )
    return Run.load(folder)


def _be_different() -> None:
    os.umask(0o077)
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 24, resource.getrlimit(resource.RLIMIT_STACK)[1]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """Twenty runs with one seed, by what was different around them."""
    base = tmp_path_factory.mktemp("rough")
    deep = [base.joinpath("deep", *["a folder"] * (3 * number + 1), "run") for number in range(IN_DEEP_FOLDERS)]
    found: dict[str, list[Run]] = {"in a row": [rough(base / "0")]}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found["in a row"] += pool.map(rough, [base / str(number) for number in range(1, IN_A_ROW)])
        found["in deep folders"] = list(pool.map(rough, deep))
        with busy():
            found["on a busy host"] = list(pool.map(rough, [base / f"busy-{n}" for n in range(ON_A_BUSY_HOST)]))
    found["from a command line"] = [by_hand(base / "by hand", base / "0")]
    assert sum(map(len, found.values())) == 20
    return found


@pytest.fixture(scope="module")
def first(runs: dict[str, list[Run]]) -> Run:
    """The run that others are compared with."""
    return runs["in a row"][0]


@pytest.mark.parametrize("around", ["in a row", "in deep folders", "on a busy host", "from a command line"])
def test_every_run_with_the_same_seed_is_equal(runs: dict[str, list[Run]], first: Run, around: str) -> None:
    for other in runs[around]:
        assert digest(other) == digest(first), first_difference(first, other)
        assert other.facts["digest"]["depends_on"] == first.facts["digest"]["depends_on"]
        assert first_difference(first, other) is None


def test_the_runs_had_something_to_differ_in(first: Run) -> None:
    impaired = {link["direction"]: link["achieved"] for link in first.facts["trials"][0]["impairments"]}
    assert impaired["nat -> internet"]["jitter_ms"] > 1
    assert impaired["nat -> internet"]["loss_pct"] > 0
    assert [setup.type for setup in first.tunnels("laptop")] == ["v6udpv4", "v6v4"]
    inside, outside = (first.wire("nat", iface) for iface in ("lan0", "wan0"))
    # Some 300 packets go out: that none of them is lost, at 5 %, has odds of 1 in 5 million.
    assert inside.total() - inside["arp"] != outside.total() - outside["arp"], "nothing was lost"


@pytest.mark.parametrize("change", [{"seed": 2}, {"delay_ms": 21}], ids=["seed", "parameter"])
def test_another_seed_or_parameter_gives_another_run(first: Run, change: dict[str, int], tmp_path: Path) -> None:
    other = rough(tmp_path / "run", **change)
    assert digest(other) != digest(first)
    assert other.facts["digest"]["depends_on"] != first.facts["digest"]["depends_on"]
    difference = first_difference(first, other)
    assert difference is not None
    assert "packet " in difference.where


def test_what_else_is_installed_makes_no_difference(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        (packages / installed.name).symlink_to(installed)

    def one_run(name: str) -> Run:
        command = [str(tmp_path / "venv" / "bin" / "python"), "-P", "-m", "lab", "run", "direct_6in4"]
        command += ["--on", "virtual", "--seed", "1", "--out", str(tmp_path / name)]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        subprocess.run(command, env=environment, capture_output=True, check=True)
        return Run.load(tmp_path / name)

    before = one_run("before")
    # The like of these two come with many a package, and with every one that is installed from its sources.
    (packages / "zz_carried_out_at_every_start.pth").write_text("import decimal\n")
    (packages / "zz_another_folder.pth").write_text(f"{tmp_path}\n")
    assert digest(one_run("after")) == digest(before)


def test_a_replay_is_equal(first: Run) -> None:
    found = replay(first.path)
    assert found.equal, found.difference
    assert found.before == found.after == digest(first)
    assert found.changed == ()


def test_a_replay_names_the_first_packet_that_differs(first: Run, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(first.path, changed)
    capture = changed / "nat-wan0.pcap"
    content = bytearray(capture.read_bytes())
    packets = list(wire.read_pcap(capture))
    at = 24 + sum(16 + len(frame) for _, _, frame in packets[:40])
    content[at + 16 + 20] ^= 0x01  # in the 41st packet
    capture.write_bytes(content)
    found = replay(changed)
    assert not found.equal
    assert found.difference is not None
    assert found.difference.file == "nat-wan0.pcap"
    assert found.difference.where.startswith("packet 41: ")
    assert found.before == found.after, "the digests that the runs kept are those of the runs"
