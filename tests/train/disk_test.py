"""Full disks, folders that vanish, slow writers: the run stops and says what is left, and goes on when there is room again."""

import contextlib
import pathlib
import resource
import shutil
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cotdistill_jax import checkpoints, files
from cotdistill_jax.train import loop, metrics_file, run_lock


@pytest.fixture
def largest_file():
    """A function that sets the largest file, in bytes, that this process may write: beyond it, writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 8 MB, as (its folder, a function that mounts it again with other options)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    yield folder, remount
    subprocess.run(["umount", "--lazy", folder], check=True)


class At:
    """A learning rate of 0.01 that is also told to the log; does something when step `number` is logged."""

    def __init__(self, number, act):
        self.number = number
        self.act = act

    def __call__(self, count):
        if count == self.number - 1:
            self.act()
        return 0.01


def _params(run):
    return checkpoints.load_model(run).params


def test_full_disk_stops_the_run_and_the_same_call_goes_on(tmp_path, train_toy, largest_file):
    run, whole = tmp_path / "run", tmp_path / "whole"
    with pytest.raises(
        loop.CheckpointWriteError, match="the last whole one is that of step 2"
    ) as error:
        # The first step after the checkpoint of step 2: the next one finds no room.
        train_toy(run, learning_rate_schedule=At(3, lambda: _fill(run, largest_file)))
    assert str(run) in str(error.value)
    assert "run the same command again" in str(error.value)
    assert checkpoints.list_steps(run) == [2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_params(run)))
    largest_file(resource.RLIM_INFINITY)
    assert train_toy(run) == (6, True)
    train_toy(whole)
    jax.tree.map(np.testing.assert_array_equal, _params(run), _params(whole))
    assert [line["step"] for line in metrics_file.read_metrics(run)] == [1, 2, 3, 4, 5, 6]


def _fill(run, largest_file):
    """Leaves room for the lines of metrics and what pytest captures, not for the parameters, once step 2 is written."""
    _wait_for(run / "checkpoint_2")
    largest_file(100_000)


def _wait_for(path: pathlib.Path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def test_a_disk_without_one_free_byte_stops_the_run_and_the_same_call_goes_on(
    tmp_path, train_toy, small_disk
):
    run, whole = small_disk[0] / "run", tmp_path / "whole"
    filler = small_disk[0] / "filler"

    def fill():
        _wait_for(run / "checkpoint_2")
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)

    # A line of metrics may still find room in its file's last block; the checkpoint of step 4 finds none.
    with pytest.raises(OSError, match=r"No space left|a checkpoint could not be written"):
        train_toy(run, learning_rate_schedule=At(3, fill))
    assert checkpoints.list_steps(run) == [2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_params(run)))
    filler.unlink()
    assert train_toy(run) == (6, True)
    train_toy(whole)
    jax.tree.map(np.testing.assert_array_equal, _params(run), _params(whole))
    assert [line["step"] for line in metrics_file.read_metrics(run)] == [1, 2, 3, 4, 5, 6]


def test_a_read_only_folder_is_refused_and_its_checkpoint_stays_readable(train_toy, small_disk):
    folder, remount = small_disk
    train_toy(folder / "run", total_steps=2)
    remount("ro")
    with pytest.raises(OSError, match=r"run folder can't be written \(Read-only file system\)"):
        train_toy(folder / "run")
    assert checkpoints.load_model(folder / "run").step == 2
    remount("rw")
    assert train_toy(folder / "run") == (6, True)


def test_vanished_folder_stops_the_run(tmp_path, train_toy):
    run = tmp_path / "run"

    def vanish():
        _wait_for(run / "checkpoint_2")
        shutil.rmtree(run)

    with pytest.raises(loop.CheckpointWriteError, match=r"there is none.*is gone"):
        train_toy(run, learning_rate_schedule=At(3, vanish))
    assert not run.exists()


def test_lock_notices_that_its_folder_is_gone(tmp_path):
    with run_lock.hold(tmp_path) as lock:
        lock.check()
        (tmp_path / run_lock.LOCK_FILE).unlink()
        with pytest.raises(files.LostError, match="is gone"):
            lock.check()


def test_slow_writer_delays_the_run_and_loses_nothing(tmp_path, train_toy, monkeypatch):
    """Every checkpoint takes longer to write than the steps between two of them."""
    original = ocp.JsonCheckpointHandler.async_save

    async def slow(self, *args, **kwargs):
        futures = await original(self, *args, **kwargs)
        time.sleep(0.3)
        return futures

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "async_save", slow)
    assert train_toy(tmp_path, save_period=1, keep_checkpoints=None) == (6, True)
    assert checkpoints.list_steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_checkpoints_stay_by_metric_and_by_age(tmp_path, train_toy):
    accuracy = {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.2, 5: 0.4, 6: 0.1}
    train_toy(
        tmp_path / "best",
        save_period=1,
        eval_period=1,
        evaluate=lambda config, params, step, check: {"accuracy": accuracy[step]},
        keep_checkpoints=1,
        keep_best=2,
        keep_best_metric="accuracy",
    )
    assert checkpoints.list_steps(tmp_path / "best") == [2, 5, 6]
    # An age of no time at all: every checkpoint is old enough to stay.
    train_toy(tmp_path / "age", save_period=2, keep_checkpoints=1, keep_every_hours=1e-9)
    assert checkpoints.list_steps(tmp_path / "age") == [2, 4, 6]
    kept = {"save_period": 1, "keep_checkpoints": 1, "keep_every_steps": 2}
    train_toy(tmp_path / "steps", total_steps=5, **kept)
    assert checkpoints.list_steps(tmp_path / "steps") == [2, 4, 5]
    with pytest.raises(
        ValueError, match=r"KEEP_EVERY_STEPS = 3 must be a multiple of SAVE_PERIOD = 2"
    ):
        train_toy(tmp_path / "none", save_period=2, keep_every_steps=3)
