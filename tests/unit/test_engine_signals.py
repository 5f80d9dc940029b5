"""A signal that comes while a run is being started waits for somebody who can end it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from lab.engines.signals import interrupted_by_signals, signals_put_off


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_until_it_is_let_come(number: signal.Signals) -> None:
    was = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # whoever started the tests may have had it ignored
    started = False
    with signals_put_off() as let_come:
        os.kill(os.getpid(), number)
        started = True
        with interrupted_by_signals(), pytest.raises(KeyboardInterrupt, match=number.name):
            let_come()
    left = signal.signal(number, was)
    assert started
    assert left is signal.default_int_handler


def test_a_signal_that_nobody_let_come_comes_at_the_end() -> None:
    def begin() -> None:
        with signals_put_off():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        begin()


def test_outside_the_main_thread_nothing_is_arranged() -> None:
    done: list[str] = []

    def work() -> None:
        with signals_put_off() as let_come:
            let_come()
            done.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["done"]
