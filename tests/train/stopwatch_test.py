"""Seconds divide into parts whose sum is the time that has passed."""

import time

import jax
import jax.numpy as jnp
import pytest

from cotdistill_jax.train import stopwatch


def test_parts_add_up_and_hold_what_happens_in_them():
    begun = time.monotonic()
    with stopwatch.Stopwatch(age=5.0) as watch:
        watch.switch(stopwatch.TRAINING)
        with watch.part(stopwatch.SAVING):
            time.sleep(0.05)
            with watch.part(stopwatch.EVALUATING):
                time.sleep(0.1)
        time.sleep(0.02)
        seconds = watch.seconds()
    passed = time.monotonic() - begun
    assert sum(seconds.values()) == pytest.approx(5.0 + passed, abs=0.01)
    assert 5.0 <= seconds[stopwatch.STARTING] < 5.05
    assert 0.05 <= seconds[stopwatch.SAVING] < 0.1 <= seconds[stopwatch.EVALUATING] < 0.2
    assert seconds[stopwatch.TRAINING] >= 0.02 and seconds[stopwatch.COMPILING] == 0.0


def test_compilations_count_once_and_are_taken_from_their_part():
    @jax.jit
    def inner(x):
        return jnp.sin(x) @ x

    @jax.jit
    def outer(x):
        time.sleep(0.3)  # traced once, as long as a large network
        return inner(x) + inner(2 * x)

    x = jnp.ones((64, 64))
    with stopwatch.Stopwatch() as watch:
        watch.switch(stopwatch.TRAINING)
        begun = time.monotonic()
        outer(x).block_until_ready()
        passed = time.monotonic() - begun
        seconds = watch.seconds()
        outer(x).block_until_ready()
        again = watch.seconds()
    assert 0.3 < seconds[stopwatch.COMPILING] <= passed
    assert seconds[stopwatch.TRAINING] == pytest.approx(
        passed - seconds[stopwatch.COMPILING], abs=0.01
    )
    assert again[stopwatch.COMPILING] == seconds[stopwatch.COMPILING]


def test_process_age():
    age = stopwatch.process_age()
    time.sleep(0.1)
    assert 0.05 < stopwatch.process_age() - age < 5.0 and age > 0.1
