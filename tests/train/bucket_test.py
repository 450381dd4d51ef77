"""A run in a bucket is the run on disk, whatever happens to the bucket, the network and the process."""

import os
import pathlib
import re
import signal
import tempfile
import time

import numpy as np
import pytest
import tensorflow as tf
from flax import traverse_util
from tensorboard.compat.proto import event_pb2

from cotdistill_jax import checkpoints, files
from cotdistill_jax.checkpoints import t5x_legacy
from cotdistill_jax.files import locks
from cotdistill_jax.train import loop, metrics_file, metrics_log, run_lock
from tests.gcs_server import Fault

MACROS = {"BATCH_SIZE": 4, "DROPOUT_RATE": 0.1, "LOG_PERIOD": 3, "SAVE_PERIOD": 4, "WARMUP_STEPS": 4, "TRAIN_STEPS": 24}  # fmt: skip
TIMES = ("steps_per_second", "tokens_per_second")
OUTAGE_S = float(os.environ.get("COTDISTILL_OUTAGE_S", "6"))


def _events(run):
    found = []
    for path in files.entries(run / metrics_log.EVENTS_FOLDER, "events*"):
        with tempfile.NamedTemporaryFile() as copy:
            pathlib.Path(copy.name).write_bytes(path.read_bytes())
            for record in tf.data.TFRecordDataset(copy.name).as_numpy_iterator():
                event = event_pb2.Event.FromString(record)
                found += [
                    (event.step, value.tag, value.tensor.SerializeToString())
                    for value in event.summary.value
                    if value.tag not in TIMES
                ]
    return sorted(found)


def _names(run):
    """Returns the names of a run's files, those that are drawn by chance replaced, without what only a bucket has."""
    names = {files.name_below(path, run) for path in run.rglob("*") if path.is_file()}
    names = {re.sub(r"/d/[0-9a-f]{32}$", "/d/CHUNK", name) for name in names}
    names = {re.sub(r"tfevents\..*", "tfevents", name) for name in names}
    return {name for name in names if not name.endswith("commit_success.txt")}


def check_equal(disk, bucket, steps):
    disk, bucket = files.as_path(disk), files.as_path(bucket)
    for part in ("target", "state"):
        trees = [
            traverse_util.flatten_dict(t5x_legacy.read(f"{run}/checkpoint_{steps}", part))
            for run in (disk, bucket)
        ]
        assert trees[0].keys() == trees[1].keys()
        for name, leaf in trees[0].items():
            np.testing.assert_array_equal(leaf, trees[1][name], err_msg=str(name))
    lines = [
        [
            {k: v for k, v in line.items() if k not in TIMES}
            for line in metrics_file.read_metrics(run)
        ]
        for run in (disk, bucket)
    ]
    assert lines[0] == lines[1] and lines[0]
    assert _events(disk) == _events(bucket) and _events(disk)
    assert checkpoints.list_steps(disk) == checkpoints.list_steps(bucket)
    assert _names(disk) == _names(bucket)


@pytest.fixture(scope="module")
def on_disk(runner, tmp_path_factory):
    """The run that nobody disturbed, on disk."""
    folder = tmp_path_factory.mktemp("disk") / "run"
    runner.finish(runner.start_toy(folder, **MACROS), folder)
    return folder


def _start(runner, bucket, run, **macros):
    environment = {**bucket.server.environment, "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "100000"}
    return runner.start_toy(run, environment=environment, **{**MACROS, **macros})


def _wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "this did not come about in time"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_run_on_disk_also_when_killed_and_continued(
    runner, bucket, on_disk
):
    run = f"{bucket.url}/some/run"
    folder = files.as_path(run)
    pid = _start(runner, bucket, run)
    _wait_for(lambda: bucket.server.files(bucket.name, "some/run/checkpoint_8/"))
    os.kill(pid, signal.SIGKILL)
    assert runner.status(pid) == -signal.SIGKILL
    assert (folder / run_lock.LOCK_FILE).is_file()
    (folder / "evaluation/results.json").write_text("{}")  # what others put there stays
    half_written = set(checkpoints.list_steps(folder)) ^ {
        int(path.name.partition("_")[2]) for path in folder.glob("checkpoint_*")
    }
    assert half_written
    said = runner.finish(_start(runner, bucket, run), run)
    assert "continuing" in said and f"train: done after step 24: {run}" in said
    (folder / "evaluation/results.json").unlink()
    check_equal(on_disk, run, 24)
    assert len((folder / "starts.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_faults_of_the_bucket_change_nothing(runner, bucket, on_disk):
    run = f"{bucket.url}/run"
    faults = [
        Fault("POST", f"b/{bucket.name}.*metrics", times=2, status=503),
        Fault("POST", f"b/{bucket.name}.*checkpoint", times=3, status=429),
        Fault("PUT", bucket.name, times=2, status=503),
        Fault("GET", f"b/{bucket.name}.*alt=media", times=2, cut=True),
        Fault("GET", f"/{bucket.name}/", times=1, delay_s=2),
        Fault("DELETE", bucket.name, times=1, status=503),
    ]
    bucket.server.faults = faults
    pid = _start(runner, bucket, run)
    _wait_for(lambda: any("checkpoint_8" in line for line in bucket.server.log))
    bucket.server.offline.set()
    time.sleep(OUTAGE_S)
    bucket.server.offline.clear()
    runner.finish(pid, run)
    assert [fault for fault in faults[:3] if fault.times] == []
    check_equal(on_disk, run, 24)


def test_a_second_run_in_the_folder_is_refused(train_toy, bucket, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.2)
    monkeypatch.setattr(locks, "_LOOK_S", 0.1)
    folder = files.as_path(f"{bucket.url}/run")
    with (
        run_lock.hold(folder),
        pytest.raises(
            run_lock.FolderInUseError,
            match=f"another run trains in this folder: process {os.getpid()} on",
        ),
    ):
        train_toy(str(folder))
    assert [path.name for path in folder.iterdir()] == [run_lock.LOCK_FILE]


@pytest.mark.parametrize(
    ("url", "fault", "says"),
    [
        ("gs://no-such-bucket/run", None, "there is no such bucket; make it"),
        ("{bucket}/run", Fault(status=403, message="x does not have storage.objects.create access", times=99), "no permission; grant"),
        ("{bucket}/run", Fault(status=401, message="Anonymous caller", times=99), "no credentials"),
        ("s3://bucket/run", None, r"know gs:// alone"),
        ("az://bucket/run", None, r"expected a local path or one of gs://, s3://"),
        ("{bucket}/a*b", None, r"holds \*: Orbax reads such a path as a pattern"),
    ],
)  # fmt: skip
def test_a_bucket_that_takes_no_run_is_named_before_anything_is_made(
    train_toy, bucket, tmp_path, monkeypatch, url, fault, says
):
    monkeypatch.chdir(tmp_path)
    bucket.server.faults = [fault] if fault else []
    with pytest.raises((OSError, ValueError), match=says):
        train_toy(url.format(bucket=bucket.url))
    bucket.server.faults = []
    assert not bucket.server.files(bucket.name) and not list(tmp_path.iterdir())


def test_a_checkpoint_that_can_not_be_written_ends_the_run_with_what_is_left(train_toy, bucket):
    url = f"{bucket.url}/run"
    train_toy(url, total_steps=4)
    bucket.server.faults = [
        Fault("POST", "checkpoint_6", times=1000, status=403, message="x does not have storage.objects.create access")
    ]  # fmt: skip
    with pytest.raises(
        loop.CheckpointWriteError, match="the last whole one is that of step 4"
    ) as caught:
        train_toy(url, total_steps=8)
    assert "no permission" in str(caught.value)
    bucket.server.faults = []
    assert train_toy(url, total_steps=8).step == 8
    assert checkpoints.load_model(url).step == 8
