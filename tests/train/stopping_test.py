"""Signals in one process; `stop_test.py` sends them to two."""

import os
import signal
import threading
import time

import pytest

from cotdistill_jax.train import stopping


def _send(number, stop):
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 5
    while not stop.wanted and time.monotonic() < deadline:
        time.sleep(0.001)


def test_sigterm_is_asked_for_and_its_handler_was_only_lent():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.StopSignal() as stop:
        assert not stop.wanted and not stop.requested()
        stop.check()
        for _ in range(3):
            _send(signal.SIGTERM, stop)
        assert stop.requested() and stop.changed.is_set()
        with pytest.raises(stopping.StopRequestedError, match="SIGTERM"):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) == before
    with stopping.StopSignal() as stop:
        assert not stop.wanted


def test_a_second_sigint_interrupts_at_once():
    with stopping.StopSignal() as stop:
        _send(signal.SIGINT, stop)
        assert (stop.wanted, stop.name) == (True, "SIGINT")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


def test_a_signal_is_taken_while_the_main_thread_can_run_no_python():
    # `acquire` of a lock without a time limit lets handlers run; sorting numbers does not.
    with stopping.StopSignal() as stop:
        numbers = list(range(3_000_000))[::-1]
        seen = []
        threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        threading.Thread(target=lambda: seen.append(stop.changed.wait(10))).start()
        sorted(numbers, key=lambda number: -number)
        time.sleep(0.1)
        assert stop.wanted and seen == [True]


def test_a_signal_before_the_run_begins_leaves_at_once_and_not_later():
    left = []
    with stopping.StopSignal(left.append) as stop:
        _send(signal.SIGTERM, stop)
        time.sleep(0.05)
        assert left == ["SIGTERM"]
        stop.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert left == ["SIGTERM"] and stop.requested()


def test_outside_the_main_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def enter():
        with stopping.StopSignal() as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop.requested()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(before, False)]
