"""Signals that end a run in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does.  Outside the main thread nothing can be arranged."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    answered = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, interrupt) for number in answered}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_put_off() -> Iterator[Callable[[], None]]:
    """Ctrl-C, SIGTERM and SIGHUP wait until the function that is given is called, or the block is over.

    For who starts a process: whatever comes before there is somebody to end it would leave it running.  The function
    raises KeyboardInterrupt for a signal that has come.  Outside the main thread nothing can be arranged.
    """
    come: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        come.append(number)

    def let_come() -> None:
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        if come:
            raise KeyboardInterrupt(signal.Signals(come.pop(0)).name)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        yield let_come
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN and handler is not None:
            before[number] = signal.signal(number, note)
    try:
        yield let_come
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in come:
            signal.raise_signal(late)
