"""Namespaces held by descriptors, and programs and sockets in them."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab.errors import KernelRefused
from lab.kernel import libc, links
from lab.kernel.namespace import Namespace

pytestmark = pytest.mark.kernel


def here() -> int:
    """The inode of the network namespace this thread is in."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_making_a_namespace_leaves_the_thread_where_it_was() -> None:
    before = here()
    with Namespace.create("a") as ns:
        assert here() == before
        assert os.fstat(ns.fd).st_ino != before


def test_the_thread_is_inside_for_the_block_only_even_when_it_fails() -> None:
    before = here()
    with Namespace.create("a") as a, Namespace.create("b") as b:

        def work() -> None:
            with a.entered():
                assert here() == os.fstat(a.fd).st_ino
                with b.entered():
                    assert here() == os.fstat(b.fd).st_ino
                assert here() == os.fstat(a.fd).st_ino
                raise RuntimeError

        with pytest.raises(RuntimeError):
            work()
        assert here() == before


def test_to_be_where_one_is_already_takes_no_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, kind: int) -> None:
        raise PermissionError(errno.EPERM, "setns wants CAP_SYS_ADMIN")

    monkeypatch.setattr(libc, "setns", refuse)
    before = here()
    with Namespace.current("here") as ns, ns.entered():
        assert here() == before


def test_another_thread_stays_where_it_is() -> None:
    before, found = here(), []
    entered, looked = threading.Event(), threading.Event()

    def look() -> None:
        entered.wait(10)
        found.append(here())
        looked.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    with Namespace.create("a") as ns, ns.entered():
        entered.set()
        looked.wait(10)
    watcher.join()
    assert found == [before]


def test_a_socket_belongs_to_the_namespace_it_was_opened_in() -> None:
    with Namespace.create("a") as a, Namespace.create("b") as b:
        for ns in (a, b):
            links.link_up(ns, "lo")
        ear, mouth, deaf = (ns.socket(socket.AF_INET, socket.SOCK_DGRAM) for ns in (a, a, b))
        with ear, mouth, deaf:
            ear.bind(("127.0.0.1", 5000))
            deaf.bind(("127.0.0.1", 5000))  # the same address, in another world
            mouth.sendto(b"word", ("127.0.0.1", 5000))
            assert ear.recv(10) == b"word"
            with pytest.raises(BlockingIOError):
                deaf.recv(10)


def test_a_program_runs_in_the_node_and_its_words_come_back() -> None:
    async def run() -> None:
        with Namespace.create("a") as ns:
            done = await ns.run(["ip", "-br", "link"])
            assert done.returncode == 0
            assert done.stdout.split()[0] == "lo"
            assert len(done.stdout.splitlines()) == 1
            echoed = await ns.run(["cat"], input="word\n")
            assert str(echoed) == "word\n"
            big = "x" * 1_000_000  # more than a pipe holds, both ways
            assert (await ns.run(["cat"], input=big)).stdout == big

    asyncio.run(run())


def test_a_program_that_fails_is_an_error_only_when_asked() -> None:
    async def run() -> None:
        with Namespace.create("laptop") as ns:
            argv = ["sh", "-c", "echo no good >&2; exit 3"]
            assert (await ns.run(argv)).returncode == 3
            with pytest.raises(KernelRefused, match="laptop: run sh .*: exit status 3: no good"):
                await ns.run(argv, check=True)
            with pytest.raises(KernelRefused, match="laptop: start no-such-program: No such file"):
                await ns.run(["no-such-program"])

    asyncio.run(run())


def test_a_program_that_takes_too_long_is_killed_with_its_children() -> None:
    async def run() -> None:
        with Namespace.create("laptop") as ns:
            with pytest.raises(KernelRefused, match="no end within") as caught:
                await ns.run(["sh", "-c", "echo $$; sleep 1000 & sleep 1000"], timeout_s=0.3)
            assert caught.value.errno == errno.ETIMEDOUT

    asyncio.run(run())
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-s", "0", "-x", "sleep"], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        assert time.monotonic() < deadline, "the children still run"
        time.sleep(0.01)


def test_a_cancelled_run_kills_its_program() -> None:
    async def run() -> None:
        with Namespace.create("laptop") as ns:
            task = asyncio.create_task(ns.run(["sleep", "1000"]))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())


def test_several_tasks_wait_for_one_program() -> None:
    async def run() -> None:
        with Namespace.create("laptop") as ns:
            process = ns.popen(["sleep", "1000"])
            waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
            await asyncio.sleep(0)
            process.terminate()
            assert await asyncio.gather(*waiting) == [-15, -15, -15]
            assert await process.wait() == -15

    asyncio.run(run())


def test_a_sysctl_is_of_its_node_and_a_wrong_one_is_named() -> None:
    with Namespace.create("a") as a, Namespace.create("b") as b:
        a.sysctl("net/ipv4/ip_forward", "1")
        assert a.sysctl("net/ipv4/ip_forward") == "1"
        assert b.sysctl("net/ipv4/ip_forward") == "0"
        with pytest.raises(KernelRefused, match="a: write sysctl net/ipv4/no_such_thing=1: No such file"):
            a.sysctl("net/ipv4/no_such_thing", "1")


def test_five_hundred_namespaces_need_no_more_rights() -> None:
    """In a child with the usual limit of 1,024 open files, which a larger network would exceed."""
    script = """
import resource, sys
from lab.kernel.namespace import Namespace, raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
limit = raise_descriptor_limit()
kept = [Namespace.create(str(number)) for number in range(500)]
print(limit)
"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= min(hard, 65536)


def test_running_out_of_descriptors_names_the_node() -> None:
    before = here()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept: list[Namespace] = []

    def make_many() -> None:
        for number in range(100):
            kept.append(Namespace.create(f"node{number}"))

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with pytest.raises(KernelRefused, match=r"node\d+: make a network namespace: Too many open files"):
            make_many()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for ns in kept:
            ns.close()
    assert here() == before
