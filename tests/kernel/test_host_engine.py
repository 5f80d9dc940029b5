"""A run on the host engine leaves nothing behind, whoever is killed and whenever."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from lab.engines import host
from lab.errors import MissingFeature, RunFailed
from tests.kernel.prober import wait_for

pytestmark = pytest.mark.kernel

STUB = Path(__file__).with_name("stub_agent.py")
DEADLINE_S = 30.0

NO_CAPABILITY = ("setpriv", "--inh-caps", "-all", "--bounding-set", "-all,+setfcap")
"""A command prefix: without capabilities a run begins with a user namespace, as an ordinary user's does.

Since Linux 5.12 root, unlike an ordinary user, needs CAP_SETFCAP to give itself one.
"""

CALLER = """
import sys
from pathlib import Path
from lab.engines import host
sys.exit(host.launch([sys.executable, *sys.argv[3:]], Path(sys.argv[1]), sys.argv[2] == "terminal", None))
"""


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in text.split()]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@dataclass
class Started:
    """A run in a process of its own, found again by a mark in the environment of all it starts."""

    caller: subprocess.Popen[bytes]
    mark: str
    folder: Path

    def processes(self) -> list[int]:
        """Every process of the run, zombies excepted: they are in the caller's or this test's hands."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def member(self, role: str) -> int | None:
        """The process id of caller, launcher, first, program or child, once it exists."""
        pid = self.caller.pid
        for name in ("caller", "launcher", "first", "program", "child"):
            if name == role:
                return pid
            below = children(pid)
            if name == "caller":  # which starts the capability probe as well
                below = [child for child in below if b"lab.engines.launch" in command_of(child)]
            if not below:
                return None
            pid = below[0]
        raise AssertionError(role)

    def has_begun(self, role: str) -> bool:
        """Whether a process has come to be, or will not any more."""
        return self.member(role) is not None or self.caller.poll() is not None


@dataclass(frozen=True)
class Surroundings:
    """What of the machine a run might change."""

    interfaces: tuple[str, ...]
    mounts: str
    run: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def now(cls) -> Surroundings:
        netns = Path("/run/netns")
        return cls(
            interfaces=tuple(sorted(name for _, name in socket.if_nameindex())),
            mounts=Path("/proc/thread-self/mountinfo").read_text(),
            run=tuple(sorted(os.listdir("/run"))),
            names=tuple(sorted(os.listdir(netns))) if netns.exists() else (),
        )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    runs: list[Started] = []

    def begin(*program: str, rights: tuple[str, ...] = (), caller: tuple[str, ...] = ("-c", CALLER)) -> Started:
        value = str(uuid.uuid4())
        folder = tmp_path / str(len(runs))
        folder.mkdir()
        arguments = (
            [str(folder), "batch", *(program or (str(STUB), str(folder)))] if caller[0] == "-c" else [str(folder)]
        )
        command = [*rights, sys.executable, *caller, *arguments]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "LAB_MARK": value}
        null = subprocess.DEVNULL
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup: it is told to stop with that as well
            command = ["env", "--default-signal=HUP", *command]
        started = Started(subprocess.Popen(command, env=env, stdout=null, stderr=null), f"LAB_MARK={value}", folder)
        runs.append(started)
        return started

    yield begin
    for run in runs:
        run.caller.kill()
        run.caller.wait()


def assert_nothing_outside(run: Started, before: Surroundings) -> None:
    wait_for(lambda: run.caller.poll() is not None, "the caller to end")
    wait_for(lambda: not run.processes(), "every process of the run to end")
    assert Surroundings.now() == before


def assert_nothing_left(run: Started, before: Surroundings) -> None:
    assert_nothing_outside(run, before)
    allowed = {"ready", "tidy", "a-eth0.pcap"}
    assert {file.name for file in run.folder.iterdir()} <= allowed


@pytest.mark.parametrize("role", ["caller", "launcher", "first", "program", "child"])
@pytest.mark.parametrize("rights", [(), NO_CAPABILITY], ids=["given rights", "user namespace"])
@pytest.mark.needs("user_namespaces")
def test_killing_a_process_of_a_running_lab_leaves_nothing(
    rights: tuple[str, ...], role: str, start: Callable[..., Started]
) -> None:
    before = Surroundings.now()
    run = start(rights=rights)
    wait_for((run.folder / "ready").exists, "the stub agent to be ready")
    wait_for(lambda: len(run.processes()) >= 5, "caller, launcher, first process, agent and its child")
    assert Surroundings.now() == before  # nor does it show while it runs
    pid = run.member(role)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert_nothing_left(run, before)


def is_gone(run: Started, role: str, pid: int) -> bool:
    return run.member(role) != pid


@pytest.mark.parametrize("role", ["caller", "launcher", "first", "program"])
@pytest.mark.timeout(180)
def test_killing_a_process_at_any_moment_of_the_start_leaves_nothing(role: str, start: Callable[..., Started]) -> None:
    before = Surroundings.now()
    for step in range(12):
        run = start()
        wait_for(partial(run.has_begun, role), f"the {role}")
        time.sleep(step * 0.003)  # not a wait: the moment of the kill is what is tried
        pid = run.member(role)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        assert_nothing_left(run, before)


@pytest.mark.timeout(180)
def test_a_launcher_killed_before_the_first_process_could_ask_for_its_death_signal(
    start: Callable[..., Started],
) -> None:
    """The first process is stopped as soon as it exists, mostly before its first instruction."""
    before = Surroundings.now()
    for _ in range(10):
        run = start()
        wait_for(partial(run.has_begun, "first"), "the first process")
        first = run.member("first")
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        launcher = run.member("launcher")
        assert launcher is not None
        os.kill(launcher, signal.SIGKILL)
        wait_for(partial(is_gone, run, "launcher", launcher), "the launcher to be gone")
        with suppress(ProcessLookupError):  # it had asked already
            os.kill(first, signal.SIGCONT)
        assert_nothing_left(run, before)


ENDLESS = """
import asyncio
from topologies.home_nat import build, check, scenario as at_home

async def scenario(net):
    await at_home(net)
    await asyncio.sleep(1000)
"""
"""A topology whose run is not over before it is killed, however late that is."""


@pytest.mark.parametrize("role", ["caller", "launcher", "first", "program"])
@pytest.mark.needs("nft_nat", "conntrack")
@pytest.mark.timeout(300)
def test_killing_a_process_of_a_real_run_leaves_nothing(
    role: str, start: Callable[..., Started], tmp_path: Path
) -> None:
    before = Surroundings.now()
    topology = tmp_path / "endless.py"
    topology.write_text(ENDLESS)
    for step in range(5):
        run = start(caller=("-m", "lab", "run", str(topology), "--set", "delay_ms=0", "--on", "host", "--out"))
        wait_for(partial(run.has_begun, role), f"the {role}")
        time.sleep(step * 0.08)  # not a wait: the moment of the kill is what is tried
        pid = run.member(role)
        assert pid is not None, f"the run ended by itself, with status {run.caller.poll()}"
        os.kill(pid, signal.SIGKILL)
        assert_nothing_outside(run, before)
        assert run.caller.returncode != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_caller_lets_the_agent_finish_its_files(
    number: signal.Signals, start: Callable[..., Started]
) -> None:
    before = Surroundings.now()
    run = start()
    wait_for((run.folder / "ready").exists, "the stub agent to be ready")
    os.kill(run.caller.pid, number)
    assert_nothing_left(run, before)
    assert (run.folder / "tidy").exists()


def test_orphans_of_the_agent_end_with_it(start: Callable[..., Started]) -> None:
    before = Surroundings.now()
    run = start("-c", "import subprocess; subprocess.run(['sh', '-c', 'sleep 1000 & setsid sleep 1000 & exit'])")
    assert_nothing_left(run, before)
    assert run.caller.returncode == 0


def test_the_status_of_the_agent_comes_back(tmp_path: Path) -> None:
    assert host.launch([sys.executable, "-c", "raise SystemExit(7)"], tmp_path, False, None) == 7
    killed = "import os; os.kill(os.getpid(), 15)"
    assert host.launch([sys.executable, "-c", killed], tmp_path, False, None) == 128 + signal.SIGTERM


def test_a_run_that_takes_too_long_is_ended(start: Callable[..., Started], tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"did not end within 0\.5 s"):
        host.launch([sys.executable, "-c", "import time; time.sleep(1000)"], tmp_path, False, 0.5)


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFeature, match="no-such-program"):
        host.launch(["no-such-program"], tmp_path, False, None)


def test_the_agent_is_alone_in_its_namespaces(tmp_path: Path) -> None:
    check = """
import os
assert os.getpid() == 2, os.getpid()
assert os.getuid() == 0
assert [name for name in os.listdir("/proc") if name.isdigit()] == ["1", "2"]
assert os.listdir("/run") == []
assert [line.split(":")[0].strip() for line in open("/proc/net/dev")][2:] == ["lo"]
"""
    assert host.launch([sys.executable, "-c", check], tmp_path, False, None) == 0


def test_what_a_run_needs_under_run_stays_visible_and_the_rest_does_not(tmp_path: Path) -> None:
    """As on systems that keep their programs there; tried in a mount namespace with a /run of its own."""
    look = "import os; print(sorted(os.listdir('/run')), os.listdir('/run/needed'), os.getcwd())"
    script = f"""
mount -t tmpfs none /run && mkdir /run/needed /run/other && cd /run/needed && touch here || exit 9
exec {sys.executable} -c '{CALLER}' /tmp batch -c "{look}" 2>&1
"""
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "['needed'] ['here'] /run/needed")


class Terminal:
    """A person at a terminal, running a lab with a program of its own on it."""

    def __init__(self, *argv: str) -> None:
        in_node = """
import asyncio, sys
from lab.kernel.namespace import Namespace
async def main():
    return await Namespace.create("node").popen(sys.argv[1:], foreground=True).wait()
sys.exit(asyncio.run(main()) % 256)
"""
        caller = CALLER.replace("sys.exit(", "status = (") + "print('status', status)\nprint('read', input())\n"
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            os.environ["PS1"] = "ready> "
            os.execv(sys.executable, [sys.executable, "-c", caller, "/tmp", "terminal", "-c", in_node, *argv])
        self.seen = ""

    def expect(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not appear in {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def close(self) -> None:
        os.close(self.fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
        finally:
            os.waitpid(self.pid, 0)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*argv: str) -> Terminal:
        opened.append(Terminal(*argv))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_shell_in_a_node_has_the_terminal(terminal: Callable[..., Terminal]) -> None:
    user = terminal("bash", "--norc", "-i")
    user.expect("ready> ")
    user.type("sh -c 'echo $((40 + 1)); exec sleep 1000'\n")
    user.expect("41")
    user.type("\x03")  # Ctrl-C ends the sleep, not the lab
    user.expect("ready> ")
    user.type("sh -c 'echo $((40 + 2)); exec sleep 1000'\n")
    user.expect("42")
    user.type("\x1a")  # Ctrl-Z suspends it: job control works
    user.expect("Stopped")
    user.type("disown -a; echo $((40 + 3))\n")
    user.expect("43")
    user.type("exit 3\n")
    user.expect("status 3")
    user.type("word\n")  # the terminal is the caller's again
    user.expect("read word")


def test_a_program_without_job_control_can_be_interrupted(terminal: Callable[..., Terminal]) -> None:
    user = terminal("sh", "-c", "echo begun; exec sleep 1000")
    user.expect("begun")
    user.type("\x1a")  # nobody could wake it again: it goes on
    user.type("\x03")
    user.expect("status 254")
    user.type("word\n")
    user.expect("read word")
