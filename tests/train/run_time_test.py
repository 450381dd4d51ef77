"""`time.json`: what each start's seconds were spent on, and what a killed one lost."""

import json

import pytest

from cotdistill_jax.train import run_time

PARTS = {"starting": 10.0, "training": 80.0, "saving": 10.0}


def _clock(**seconds):
    return lambda: {**dict.fromkeys(PARTS, 0.0), **seconds}


def test_a_killed_start_loses_what_came_after_its_checkpoint(tmp_path):
    # Killed at step 12, saved at step 10; then one that is killed before it saves; then one that ends.
    spent = dict(PARTS)
    with run_time.RunTime(tmp_path, 0, None, lambda: spent) as first:
        first.update(10, at_once=True)
        notes = json.loads(json.dumps(first.notes()))
        spent["training"] += 5.0
        first.update(12, at_once=True)
    spent = {"starting": 7.0, "training": 3.0}
    with run_time.RunTime(tmp_path, 10, notes, lambda: spent) as second:
        second.update(11, at_once=True)
    with run_time.RunTime(tmp_path, 10, notes, _clock(training=50.0)) as third:
        third.update(20, run_time.DONE)
    starts = run_time.read(tmp_path)
    assert starts[0].seconds == {**PARTS, "lost": 5.0}
    assert starts[1].seconds == {"lost": 10.0}
    assert [start.lost_steps for start in starts] == [2, 1, 0]
    assert [start.ended for start in starts] == [None, None, "done"]
    assert sum(run_time.totals(starts).values()) == 105 + 10 + 50
    assert run_time.in_words(starts) == (
        "50 s: 100 % training; all 3 starts 165 s: 78.8 % training, 9.09 % lost (3 steps), 6.06 % saving, 6.06 % starting"
    )


def test_a_start_that_was_stopped_in_good_order_loses_nothing(tmp_path):
    for from_step, until_step, notes in (
        (0, 0, None),
        (0, 5, None),
        (5, 9, {"start": 2, "seconds": {}}),
    ):
        with run_time.RunTime(tmp_path, from_step, notes, _clock(**PARTS)) as start:
            start.update(until_step, run_time.STOPPED)
    starts = run_time.read(tmp_path)
    assert [start.seconds for start in starts] == [PARTS] * 3
    # Unless its checkpoint is gone: the third goes on from step 5 again.
    with run_time.RunTime(tmp_path, 5, {"start": 2, "seconds": PARTS}, _clock()):
        pass
    third = run_time.read(tmp_path)[2]
    assert (third.seconds, third.lost_steps) == ({"lost": 100.0}, 4)


def test_the_steps_of_a_killed_start_are_those_it_logged(tmp_path):
    with run_time.RunTime(tmp_path, 0, None, _clock(**PARTS)) as start:
        start.update(4, at_once=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 8}\n{"step": 9}\n{"st')
    with run_time.RunTime(tmp_path, 4, start.notes(), _clock()):
        pass
    (killed, _) = run_time.read(tmp_path)
    assert (killed.until_step, killed.lost_steps) == (9, 5)


def test_an_error_is_named_and_what_follows_its_checkpoint_is_lost(tmp_path):
    with pytest.raises(FloatingPointError), run_time.RunTime(tmp_path, 0, None, _clock(**PARTS)):
        raise FloatingPointError
    assert run_time.read(tmp_path)[0].ended == "FloatingPointError"
    with run_time.RunTime(tmp_path, 0, None, _clock()):
        pass
    assert run_time.read(tmp_path)[0].seconds == {"lost": 100.0}


def test_a_checkpoint_that_does_not_say_changes_no_earlier_start(tmp_path):
    with run_time.RunTime(tmp_path, 0, None, _clock(**PARTS)) as start:
        start.update(7, at_once=True)
    with run_time.RunTime(tmp_path, 7, None, _clock()):
        pass
    assert run_time.read(tmp_path)[0].seconds == PARTS


def test_another_process_writes_nothing_and_another_version_is_refused(tmp_path):
    with run_time.RunTime(tmp_path, 0, None, _clock(), write=False) as start:
        start.update(3, run_time.DONE)
    assert run_time.read(tmp_path) == []
    (tmp_path / run_time.TIME_FILE).write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="has schema version 99, expected 1"):
        run_time.read(tmp_path)
