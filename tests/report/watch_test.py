import threading

import pytest
from rich.console import Console

from cotdistill_jax.report import watch
from cotdistill_jax.train import run_time


def test_standing_and_time_left():
    lines = [{"step": s, "loss": 1.0, "steps_per_second": 5.0} for s in (10, 50)]
    now = watch.standing([*lines, {"step": 50, "eval/t/accuracy": 0.25}], 100)
    assert (now.step, now.seconds_left, now.evaluation) == (50, 10.0, {"eval/t/accuracy": 0.25})
    assert watch.standing([], 100).seconds_left is None
    assert watch.standing(lines, None).seconds_left is None


def test_literals():
    assert watch.sparkline([0.0, 1.0, 0.5]) == "▁█▅"
    assert watch.sparkline([2.0, 2.0]) == "▁▁" and watch.sparkline([]) == ""
    assert len(watch.sparkline(list(range(1000)))) == 59
    assert watch.clock(3725) == "1:02:05"


def test_one_look(run):
    console = Console(record=True, width=120)
    watch.watch(run, console, once=True)
    text = console.export_text()
    assert "step 200 of 200" in text and "left" in text
    assert "token accuracy" in text and "100.00%" in text


def test_where_the_time_went(run):
    with run_time.RunTime(run / "run", 0, None, lambda: {"training": 90.0, "saving": 10.0}):
        console = Console(record=True, width=120)
        watch.watch(run, console, once=True)
    assert "100 s: 90 % training, 10 % saving" in console.export_text()


def test_it_watches_until_the_last_step(run):
    metrics = run / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:2]))
    writer = threading.Timer(0.3, metrics.write_text, ["".join(lines)])
    writer.start()
    console = Console(record=True, width=120)
    watch.watch(run, console, every_seconds=0.05)  # returns
    assert not writer.is_alive() and "step 200 of 200" in console.export_text()


def test_before_the_first_line(run):
    (run / "run" / "metrics.jsonl").unlink()
    console = Console(record=True, width=120)
    watch.watch(run, console, once=True)
    assert "nothing logged yet" in console.export_text()


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no training run yet"):
        watch.view(tmp_path)
