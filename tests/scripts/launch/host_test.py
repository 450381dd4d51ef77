"""What the doctor finds on a host: real processes, files and a local server; environments of SLURM as SLURM makes them."""

import datetime
import email.utils
import http.server
import json
import pathlib
import subprocess
import sys
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "scripts" / "launch"))
import findings
import host

RUN = ["python", "-m", "cotdistill_jax.train", "--gin.MODEL_DIR='/runs/a'"]


def _one(found):
    (finding,) = found
    assert finding.kind in findings.KINDS
    assert "\n" not in str(finding)
    return str(finding)


def test_a_process_that_holds_the_tpu_is_named(tmp_path):
    device = tmp_path / "accel0"
    device.touch()
    holder = subprocess.Popen(
        [sys.executable, "-c", f"f = open('{device}'); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        holder.stdout.readline()
        said = _one(host.busy_driver(str(tmp_path / "no_lock"), (str(tmp_path / "accel"),)))
        assert f"process {holder.pid} (" in said
        assert f"holds {device}" in said
        assert f"kill {holder.pid}" in said
    finally:
        holder.communicate(b"\n")
    assert list(host.busy_driver(str(tmp_path / "no_lock"), (str(tmp_path / "accel"),))) == []


def test_a_lock_file_of_a_dead_process_is_named(tmp_path):
    (tmp_path / "lock").touch()
    said = _one(host.busy_driver(str(tmp_path / "lock"), ("/no_device",)))
    assert f"a killed process left it: sudo rm {tmp_path / 'lock'}" in said


def test_gpus_that_the_scheduler_hides():
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "0,1,2,3", "SLURMD_NODENAME": "node7"}
    said = _one(host.hidden_gpus({**job, "CUDA_VISIBLE_DEVICES": ""}, 1))
    assert "node7: SLURM gave GPUs" in said
    assert "srun --gpus-per-node=N" in said
    said = _one(host.hidden_gpus({**job, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 1))
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3" in said
    said = _one(host.hidden_gpus({**job, "CUDA_VISIBLE_DEVICES": "2"}, 4))
    assert "--gpu-bind=none" in said
    fine = {**job, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert list(host.hidden_gpus({**fine, "JAX_LOCAL_DEVICE_IDS": "0,1,2,3"}, 1)) == []
    assert list(host.hidden_gpus(fine, 4)) == []
    assert list(host.hidden_gpus({"CUDA_VISIBLE_DEVICES": ""}, 1)) == []


def test_a_coordinator_on_the_loopback_address(monkeypatch):
    for address in ("localhost:8476", "127.0.0.1:8476"):
        said = _one(host.loopback([*RUN, f"--coordinator_address={address}"], 2))
        assert (
            f"--coordinator_address={address}: the loopback address, for a run of 2 hosts" in said
        )
    assert list(host.loopback([*RUN, "--coordinator_address=localhost:1"], 1)) == []
    assert list(host.loopback([*RUN, "--coordinator_address=192.0.2.1:8476"], 2)) == []
    monkeypatch.setenv("SLURMD_NODENAME", "localhost")
    assert "/etc/hosts" in _one(host.loopback(RUN, 2))


class _Late(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response_only(400)
        then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        self.send_header("Date", email.utils.format_datetime(then, usegmt=True))
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_wrong_clock(capsys):
    server = http.server.HTTPServer(("localhost", 0), _Late)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said = _one(host.clock_skew(f"http://localhost:{server.server_port}/"))
    assert "it is -3600 s off" in said or "it is -3599 s off" in said
    assert "timedatectl" in said
    server.shutdown()
    server.server_close()
    assert list(host.clock_skew(f"http://localhost:{server.server_port}/")) == []
    assert "clock not compared: http://localhost" in capsys.readouterr().out


def test_a_run_folder_that_will_not_do(tmp_path):
    (tmp_path / "file").touch()
    assert "can't be written from" in _one(
        host.run_folder(str(tmp_path / "file" / "run"), 1, shared=False)
    )
    assert "the 4 hosts of a slice share none" in _one(
        host.run_folder(str(tmp_path / "run"), 4, shared=False)
    )
    assert "no --gin.MODEL_DIR" in _one(host.run_folder(None, 1, shared=False))
    assert list(host.run_folder(str(tmp_path / "run"), 4, shared=True)) == []
    assert list((tmp_path / "run").iterdir()) == []
    assert host.model_dir(RUN) == "/runs/a"
    assert host.model_dir(['--gin.MODEL_DIR="gs://b/a"']) == "gs://b/a"


def test_a_grace_period_shorter_than_a_save_measured_or_estimated(tmp_path, capsys):
    for step, seconds in ((100, 10), (200, 45)):
        (tmp_path / f"checkpoint_{step}").mkdir()
        notes = {"init_timestamp_nsecs": 10**18, "commit_timestamp_nsecs": 10**18 + seconds * 10**9}
        (tmp_path / f"checkpoint_{step}" / "_CHECKPOINT_METADATA").write_text(json.dumps(notes))
    said = _one(host.short_grace(str(tmp_path), 30, 1.0, 4, 0.5))
    assert "a save takes 45 s (measured: checkpoint 200 of" in said
    assert "30 s are left" in said
    assert "--ignore=grace" in said
    assert list(host.short_grace(str(tmp_path), 60, None, 4, 0.5)) == []
    empty = str(tmp_path / "empty")
    assert (
        "a save takes 68 s (estimated: 136.0 GB over 4 hosts at 0.5 GB/s each (assumed))"
        in _one(host.short_grace(empty, 30, 136e9, 4, 0.5))
    )
    assert list(host.short_grace(empty, None, 136e9, 4, 0.5)) == []
    assert list(host.short_grace(empty, 30, None, 4, 0.5)) == []
    assert "grace not compared" in capsys.readouterr().out


@pytest.mark.parametrize(("ignored", "faults"), [((), 1), (("mesh",), 0)])
def test_a_report_counts_what_is_not_ignored_and_says_both(capsys, ignored, faults):
    finding = findings.Finding("mesh", "gin", "is wrong", "mend it")
    assert findings.report([lambda: [finding], list], ignored) == faults
    said = capsys.readouterr()
    assert "doctor: mesh: gin: is wrong. What to do: mend it" in said.out + said.err
