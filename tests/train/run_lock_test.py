"""One run per folder: the second is refused by name, a dead owner's lock is taken over."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from cotdistill_jax.train import run_lock

OWNER = "import sys, time; from cotdistill_jax.train import run_lock\nwith run_lock.hold(sys.argv[1]): print('held', flush=True); time.sleep(60)"


def test_second_run_is_refused_with_the_owners_name_until_the_owner_dies(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "held\n"
    with (
        pytest.raises(run_lock.FolderInUseError, match=f"process {owner.pid} on ") as raised,
        run_lock.hold(tmp_path),
    ):
        pytest.fail("held by two")
    assert socket.gethostname() in str(raised.value)
    assert raised.value.filename == str(tmp_path)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert str(owner.pid) in (tmp_path / run_lock.LOCK_FILE).read_text()
    with run_lock.hold(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / run_lock.LOCK_FILE).read_text()


def test_lock_ends_with_the_block(tmp_path):
    with run_lock.hold(tmp_path), pytest.raises(run_lock.FolderInUseError):
        run_lock.hold(tmp_path).__enter__()
    with run_lock.hold(tmp_path):
        assert (tmp_path / run_lock.LOCK_FILE).read_text()
