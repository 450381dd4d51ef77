"""The supervisor with short commands in place of training: what is run again, what not, and what it says."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

# Real processes that wait for one another: minutes on two cores that do something else, too.
pytestmark = pytest.mark.multihost

SCRIPT = pathlib.Path(__file__).parents[3] / "scripts" / "launch" / "supervise.py"
# Saves checkpoint_N at its Nth start, up to SAVES, then ends with CODE, or with 0 once it has been started often enough.
TRAINING = """
run={run}; mkdir -p $run; n=$(( $(cat $run/starts 2> /dev/null || echo 0) + 1 )); echo $n > $run/starts
[ $n -le {saves} ] && mkdir -p $run/checkpoint_$((10 * n))
echo "start $n"
[ $n -ge {enough} ] && exit 0
exit {code}
"""


@pytest.fixture
def supervise(tmp_path):
    def call(*flags, command=(), **keywords):
        arguments = [
            sys.executable,
            SCRIPT,
            "--name=a",
            f"--state_dir={tmp_path}",
            "--first_wait_seconds=0.01",
            *flags,
        ]
        return subprocess.Popen(
            [*arguments, *(["--", *command] if command else [])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )  # fmt: skip

    return call


def _training(tmp_path, saves=0, enough=99, code=1):
    script = TRAINING.format(run=tmp_path / "run", saves=saves, enough=enough, code=code)
    return ["bash", "-c", script, f"--gin.MODEL_DIR='{tmp_path}/run'"]


def _wait_for_line(process, wanted):
    for line in process.stdout:
        if line == f"{wanted}\n":
            return
    pytest.fail(f"it ended with {process.wait()} and never said {wanted!r}")


def _wait_for(ask, condition, seconds=20):
    """Returns the first answer that is wanted."""
    deadline = time.monotonic() + seconds
    while not condition(answer := ask()):
        assert time.monotonic() < deadline, answer
    return answer


def _finish(process):
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def _status(tmp_path):
    return json.loads((tmp_path / "a" / "status.json").read_text())


def test_done_is_not_run_again(tmp_path, supervise):
    assert _finish(supervise(command=_training(tmp_path, enough=1)))[0] == 0
    status = _status(tmp_path)
    assert (status["state"], status["starts"]) == ("done", 1)


def test_crashes_at_the_same_step_end_it_and_the_reason_is_said(tmp_path, supervise):
    code, said = _finish(supervise("--max_crashes=3", command=_training(tmp_path, saves=2, code=7)))
    assert code == 7
    status = _status(tmp_path)
    assert (status["state"], status["starts"], status["step"]) == (
        "failed",
        4,
        20,
    )
    assert "3 crashes since the last new checkpoint (step 20)" in status["reason"]
    assert "The last one: exit status 7; its last lines: start 4" in said


def test_crashes_with_new_checkpoints_between_them_go_on_for_as_long_as_it_takes(
    tmp_path, supervise
):
    code, _ = _finish(supervise("--max_crashes=2", command=_training(tmp_path, saves=6, enough=6)))
    assert (code, _status(tmp_path)["starts"]) == (0, 6)


def test_a_stopped_run_is_run_again_unless_nothing_comes_of_it(tmp_path, supervise):
    code, said = _finish(
        supervise("--max_crashes=2", command=_training(tmp_path, saves=3, code=os.EX_TEMPFAIL))
    )
    assert code == os.EX_TEMPFAIL
    assert said.count("its checkpoint is saved; running it again") == 3
    assert (_status(tmp_path)["state"], _status(tmp_path)["starts"]) == ("failed", 5)


def test_a_signal_and_a_missing_program_are_named(tmp_path, supervise):
    code, said = _finish(supervise("--max_crashes=1", command=["bash", "-c", "kill -9 $$"]))
    assert code == 128 + signal.SIGKILL
    assert "killed by SIGKILL (out of memory?" in said
    code, said = _finish(supervise("--max_crashes=1", command=["no_such_program"]))
    assert code == 127
    assert "no_such_program: No such file or directory" in said


@pytest.mark.parametrize(
    ("number", "state"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "stopped")]
)
def test_a_signal_is_passed_on_and_ends_it(tmp_path, supervise, number, state):
    command = [
        "bash",
        "-c",
        "trap 'echo saving; exit 75' TERM; echo ready; while true; do sleep 0.05; done",
    ]
    process = supervise(f"--resubmit=touch {tmp_path}/again", command=command)
    _wait_for_line(process, "ready")
    process.send_signal(number)
    process.send_signal(number)
    code, said = _finish(process)
    assert code == os.EX_TEMPFAIL
    assert "saving" in said
    assert _status(tmp_path)["state"] == state
    assert (tmp_path / "again").exists() == (state == "terminated")


def test_a_signal_can_be_passed_on_by_another_command(tmp_path, supervise):
    command = [
        "bash",
        "-c",
        f"trap '' TERM; echo ready; until [ -e {tmp_path}/told ]; do sleep 0.05; done; exit 75",
    ]
    process = supervise(f"--on_stop=touch {tmp_path}/told", command=command)
    _wait_for_line(process, "ready")
    process.terminate()
    assert _finish(process)[0] == os.EX_TEMPFAIL


def test_it_runs_once_in_the_background_and_is_looked_at_stopped_and_found_lost(
    tmp_path, supervise
):
    command = [
        "bash",
        "-c",
        "trap 'exit 75' TERM; echo hello; while true; do sleep 0.05; done",
        "--detach",
    ]
    assert "started as process" in _finish(supervise("--detach", command=command))[1]
    _wait_for(lambda: _finish(supervise("--tail=5"))[1], lambda said: "hello" in said)
    assert "already running here" in _finish(supervise("--detach", command=command))[1]
    assert "already running here" in _finish(supervise(command=command))[1]
    assert json.loads(_finish(supervise("--status"))[1])["state"] == "running"
    assert "stopped: told to stop" in _finish(supervise("--stop"))[1]
    assert "nothing to stop: stopped" in _finish(supervise("--stop"))[1]
    _finish(supervise("--detach", command=command))
    os.kill(_status(tmp_path)["pid"], signal.SIGKILL)
    found = _wait_for(
        lambda: json.loads(_finish(supervise("--status"))[1]), lambda now: now["state"] != "running"
    )
    assert found["state"] == "lost"
    assert "it ended without a word" in found["reason"]
