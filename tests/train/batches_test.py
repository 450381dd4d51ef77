"""Batches that a thread fetches: a signal ends the wait for them, and for their position; no batch is lost or comes twice."""

import os
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from clu.data import dataset_iterator

from cotdistill_jax.train import batches, stopping


class Stalling:
    """An iterator over 0, 1, 2, ... that waits before the number `at`, holding its position as long, until it is let go."""

    def __init__(self, at):
        self.next, self.at = 0, at
        self.go = threading.Event()
        self.lock = threading.Lock()

    def __next__(self):
        with self.lock:
            if self.next == self.at:
                self.go.wait(60)
            self.next += 1
            return {"number": np.int32(self.next - 1)}

    def save(self, prefix):
        with self.lock:
            prefix.with_name(f"{prefix.name}.index").write_text(str(self.next))

    def restore(self, prefix):
        self.next = int(prefix.with_name(f"{prefix.name}.index").read_text())


def _numbers(found, count):
    taken = []
    for _ in range(count):
        assert found.wait(None)
        taken.append(int(found.take()["number"]))
    return taken


@pytest.mark.parametrize("saved_before", [False, True])
@pytest.mark.parametrize("has_asked", [False, True])
def test_a_stalled_input_is_left_and_continued(tmp_path, saved_before, has_asked, monkeypatch):
    monkeypatch.setattr(batches, "_SAVE_SECONDS", 0.2)
    stop = stopping.StopSignal()
    stalled = Stalling(at=3)
    found = batches.Batches(stalled, stop)
    assert _numbers(found, 2) == [0, 1]
    if saved_before:
        found.save(tmp_path / "early")
    assert _numbers(found, 1) == [2]
    if has_asked:
        assert not found.wait(0.05)
    else:  # the pipeline reads ahead, and stalls, by itself
        threading.Thread(target=lambda: next(stalled), daemon=True).start()
        time.sleep(0.05)
    stop.wanted = True
    assert not has_asked or not found.wait(None)
    begun = time.monotonic()
    found.save(tmp_path / "late")
    assert time.monotonic() - begun < 2.0
    names = {path.name for path in tmp_path.glob("late*")}
    assert names == {"late.again.json"} | ({"late.index"} if saved_before else set())
    stalled.go.set()
    continued = batches.Batches(Stalling(at=-1), stopping.StopSignal())
    continued.restore(tmp_path / "late")
    assert _numbers(continued, 2) == [3, 4]
    # The position can be read by now, and needs no batch again.
    continued.save(tmp_path / "whole")
    assert {path.name for path in tmp_path.glob("whole*")} == {"whole.index"}


def test_a_batch_that_came_but_is_not_used_is_read_again(tmp_path):
    stop = stopping.StopSignal()
    found = batches.Batches(Stalling(at=-1), stop)
    assert _numbers(found, 3) == [0, 1, 2]
    assert found.wait(None)
    stop.wanted = True
    found.save(tmp_path / "position")
    continued = batches.Batches(Stalling(at=-1), stopping.StopSignal())
    continued.restore(tmp_path / "position")
    # Twice: what was read again is known to the second writer as well.
    assert continued.wait(None)
    continued.save(tmp_path / "second")
    again = batches.Batches(Stalling(at=-1), stopping.StopSignal())
    again.restore(tmp_path / "second")
    assert _numbers(again, 2) == _numbers(continued, 2) == [3, 4]


def test_the_position_of_a_pipeline_of_tensorflow(tmp_path):
    def pipeline():
        dataset = tf.data.Dataset.range(50).shuffle(10, seed=1).repeat().batch(3).prefetch(2)
        dataset = dataset.map(lambda numbers: {"number": numbers[0]})
        return dataset_iterator.TfDatasetIterator(dataset, checkpoint=True)

    expected = _numbers(batches.Batches(pipeline(), stopping.StopSignal()), 30)
    for taken, unused in ((0, 1), (7, 0), (7, 1)):
        found = batches.Batches(pipeline(), stopping.StopSignal())
        assert _numbers(found, taken) == expected[:taken]
        assert not unused or found.wait(None)
        folder = tmp_path / f"{taken}_{unused}"
        folder.mkdir()
        found.save(os.fspath(folder / "train_ds-000-of-001"))
        continued = batches.Batches(pipeline(), stopping.StopSignal())
        continued.restore(folder / "train_ds-000-of-001")
        assert _numbers(continued, 30 - taken) == expected[taken:]


def test_a_folder_without_a_position_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no position of the data"):
        batches.Batches(Stalling(at=-1), stopping.StopSignal()).restore(tmp_path / "position")


def test_what_reading_raises_comes_to_who_takes():
    class Broken(Stalling):
        def __next__(self):
            raise tf.errors.DataLossError(None, None, "a torn record")

    found = batches.Batches(Broken(at=-1), stopping.StopSignal())
    assert found.wait(None)
    with pytest.raises(tf.errors.DataLossError, match="a torn record"):
        found.take()
