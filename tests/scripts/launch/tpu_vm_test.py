"""TPU slices in a cloud that is not there and that misbehaves; what trains on the machines is a stand-in, too (`real_run_test.py`: the real one)."""

import ast
import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest

# Real processes that wait for one another: minutes on two cores that do something else, too.
pytestmark = pytest.mark.multihost

SLICE = ("--name=run", "--zone=us-west4-a", "--type=v5p-16", "--poll_seconds=1", "--t5x")
# `python -m t5x.train`: a step every 20 ms, a checkpoint at every tenth, the end after TRAIN_STEPS. `crash_N` in MODEL_DIR lets
# process N crash after step 12.
TRAINER = """\
import json, os, pathlib, re, sys, time
flag = lambda name: next(re.sub("[\\"']", "", a.partition("=")[2]) for a in sys.argv if a.startswith("--gin." + name + "="))
run, total = pathlib.Path(flag("MODEL_DIR")), int(flag("TRAIN_STEPS"))
worker = os.environ["STAND_IN_WORKER"]
steps = [int(p.name[11:]) for p in run.glob("checkpoint_*")]
print("worker", worker, "continues after step", max(steps, default=0), flush=True)
for step in range(max(steps, default=0) + 1, total + 1):
    time.sleep(0.02)
    while step > 12 and (crash := next(run.glob("crash_*"), None)):
        if crash.name == f"crash_{worker}":
            sys.exit(9)
        time.sleep(0.1)  # the others wait for a process that is gone
    if step % 10 == 0:
        (run / f"checkpoint_{step}").mkdir(exist_ok=True)
"""


@pytest.fixture(scope="module", autouse=True)
def trainer(modules):
    (modules / "t5x").mkdir(exist_ok=True)
    (modules / "t5x" / "train.py").write_text(TRAINER)


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def _run(run_dir, steps=20):
    return ("--", f"--gin.MODEL_DIR='{run_dir}'", f"--gin.TRAIN_STEPS={steps}")


def _one_line(done, *parts):
    """The launcher's last word is one line with all of this."""
    assert done.code == 1, done.said
    assert "Traceback" not in done.error
    last = done.error.strip().splitlines()[-1]
    for part in parts:
        assert part in done.error, done.error
    return last


def _wait(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError("".join(process.communicate()))
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def test_a_slice_is_made_and_trains_to_the_end_and_is_used_again_and_deleted(
    world, run_dir, tmp_path
):
    done = world.call("tpu_vm.py", "run", *SLICE, "--spot", *_run(run_dir))
    assert done.code == 0, done.said
    assert (run_dir / "checkpoint_20").exists()
    (create,) = world.calls("queued-resources", "create")
    assert create == [
        "gcloud", "compute", "tpus", "queued-resources", "create", "run", "--node-id=run", "--zone=us-west4-a",
        "--accelerator-type=v5p-16", "--runtime-version=v2-alpha-tpuv5", "--spot", "--async", "--quiet",
    ]  # fmt: skip
    assert "queued resource WAITING_FOR_RESOURCES" in done.out
    assert "done: " in done.out
    assert [world.status(worker)["command"][-1] for worker in (0, 1)] == ["--multiprocess_gpu"] * 2
    again = world.call("tpu_vm.py", "run", *SLICE, *_run(run_dir))
    assert again.code == 0
    assert "it is there on all hosts; watching" in again.out
    assert [world.status(worker)["starts"] for worker in (0, 1)] == [1, 1]
    assert "worker 1: done" in world.call("tpu_vm.py", "status", *SLICE).out
    world.call("tpu_vm.py", "logs", *SLICE, f"--output_dir={tmp_path}/logs")
    assert "worker 1 continues after step" in (tmp_path / "logs" / "worker_1.log").read_text()
    assert "[0] worker 0 continues after step" in world.call("tpu_vm.py", "logs", *SLICE).out
    assert not world.calls("delete")
    assert "deleting run (v5p-16, us-west4-a" in world.call("tpu_vm.py", "delete", *SLICE).out
    (delete,) = world.calls("delete")
    assert delete[3:] == [
        "queued-resources",
        "delete",
        "run",
        "--zone=us-west4-a",
        "--force",
        "--quiet",
    ]
    assert "nothing to delete" in world.call("tpu_vm.py", "delete", *SLICE).out


@pytest.mark.multihost
def test_two_preemptions_and_a_reboot_are_gone_on_from(world, run_dir):
    process = world.start("tpu_vm.py", "run", *SLICE, "--spot", *_run(run_dir, steps=400))
    for step in (10, 60):
        _wait((run_dir / f"checkpoint_{step}").exists, process)
        world.preempt()
        _wait(lambda: world.status(1)["state"] == "running", process)
    _wait((run_dir / "checkpoint_150").exists, process)
    for pid in world.processes(1):
        os.kill(pid, 9)
    out, error = process.communicate(timeout=100)
    assert process.returncode == 0, out + error
    assert out.count("queued resource SUSPENDED; asking anew") == 2
    assert "a host ended without being done (a reboot for maintenance?): starting it again" in out
    assert [call[3:5] for call in world.calls("queued-resources") if call[4] in ("create", "delete")] == [
        ["queued-resources", action] for action in ("create", "delete", "create", "delete", "create")
    ]  # fmt: skip
    assert (run_dir / "checkpoint_400").exists()


def test_without_recreate_a_preempted_slice_is_left_alone(world, run_dir):
    world.change(requests={"run": ["SUSPENDED"]})
    done = world.call("tpu_vm.py", "run", *SLICE, "--norecreate", *_run(run_dir))
    assert "tpu_vm.py delete, then again" in _one_line(done, "queued resource SUSPENDED")
    assert not world.calls("delete")


def test_a_cloud_that_does_not_answer_for_a_while_ends_nothing(world):
    error = "ERROR: (gcloud.x) HTTPError 503: backend error"
    world.change(errors={"queued-resources describe": [None, None, error, error]})
    done = world.call("tpu_vm.py", "create", *SLICE)
    assert done.code == 0, done.said
    assert done.out.count("HTTPError 503: backend error; looking again") == 2
    assert len(world.calls("create")) == 1
    world.change(errors={"queued-resources describe": error})
    _one_line(world.call("tpu_vm.py", "status", *SLICE), "HTTPError 503: backend error")


@pytest.mark.multihost
def test_a_crash_that_comes_back_ends_all_hosts(world, run_dir):
    (run_dir / "crash_1").touch()
    done = world.call(
        "tpu_vm.py",
        "run",
        *SLICE,
        "--max_crashes=2",
        "--first_wait_seconds=0.1",
        *_run(run_dir, 4000),
    )
    last = _one_line(done, "launch: worker 1: failed, checkpoint of step ")
    assert "2 crashes since the last new checkpoint" in last
    assert "exit status 9; its last lines: " in last
    assert world.status(0)["state"] == "stopped"
    (run_dir / "crash_1").unlink()
    assert world.call("tpu_vm.py", "run", *SLICE, *_run(run_dir, 40)).code == 0


def test_a_machine_that_dies_while_it_is_made(world, run_dir):
    world.change(dead_workers=[1])
    done = world.call("tpu_vm.py", "run", *SLICE, *_run(run_dir))
    last = _one_line(done, "worker 1: gcloud")
    assert "exit status 255" in last or "Connection refused" in last
    assert "the machine does not answer on port 22" in last
    assert not run_dir.joinpath("checkpoint_10").exists()


@pytest.mark.multihost
def test_a_machine_that_dies_later_is_named_and_what_is_saved_is_kept(world, run_dir):
    process = world.start("tpu_vm.py", "run", *SLICE, *_run(run_dir, 5000))
    _wait((run_dir / "checkpoint_10").exists, process)
    world.change(dead_workers=[1])
    world.kill_machine(1)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "worker 1: unreached" in error
    assert (
        f"tpu_vm.py delete, then run again: it continues from the last checkpoint in {run_dir}"
        in error
    )
    world.call("tpu_vm.py", "stop", *SLICE)
    assert world.status(0)["state"] == "stopped", out


CLOUD_FAULTS = {
    "no capacity": ({"course": ["WAITING_FOR_RESOURCES", "FAILED"], "failure": "There is no more capacity in the zone \"us-west4-a\""},
                    "queued resource FAILED: There is no more capacity", "run the same command later, or with another --zone"),
    "quota": ({"errors": {"queued-resources create": "ERROR: (gcloud.compute.tpus.queued-resources.create) RESOURCE_EXHAUSTED: Quota limit 'TPUV5PPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0"}},
              "Quota limit 'TPUV5PPerProjectPerZoneForTPUAPI'", "ask for more (console: IAM, Quotas)"),
    "permission": ({"errors": {"queued-resources create": "ERROR: (gcloud.compute.tpus.queued-resources.create) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p'"}},
                   "Permission 'tpu.nodes.create' denied", "it needs roles/tpu.admin"),
    "clock": ({"errors": {"accelerator-types list": "ERROR: gcloud crashed (RefreshError): invalid_grant: Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values"}},
              "in a reasonable timeframe", "this machine's clock is wrong"),
    "API off": ({"errors": {"accelerator-types list": "ERROR: (gcloud.compute.tpus.accelerator-types.list) PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before or it is disabled. reason: SERVICE_DISABLED"}},
                "Cloud TPU API has not been used", "gcloud services enable tpu.googleapis.com"),
    "no account": ({"account": ""}, "credentials", "gcloud auth login"),
    "left over": ({"requests": {"run": ["FAILED"]}, "failure": "internal"}, "leftover: queued resource run: FAILED", "tpu_vm.py delete"),
    "broken VM": ({"node": "TERMINATED", "course": ["ACTIVE"]}, "TPU VM TERMINATED", "tpu_vm.py delete"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CLOUD_FAULTS)
def test_what_the_cloud_refuses_is_one_line_with_a_remedy(world, run_dir, fault):
    changes, what, remedy = CLOUD_FAULTS[fault]
    world.change(**changes)
    done = world.call("tpu_vm.py", "run", *SLICE, "--norecreate", *_run(run_dir))
    _one_line(done, what, remedy)
    assert list(run_dir.iterdir()) == []


BEFORE = {
    "zone": (["--zone=us-west4-z"], "zone: us-west4-z: no zone with TPUs (Cloud TPU API); close: us-west4-a"),
    "type": (["--zone=us-central2-b"], "it has no v5p-16; close: none. What to do: --type is one of v4-8"),
    "topology": (["--type=v5p:2x3x1"], "there is no TPU slice v5p:2x3x1; v5p comes as v5p-8 (2x2x1), v5p-16 (2x2x2)"),
    "bucket": (["MODEL_DIR=gs://no_bucket/run"], "gcloud storage buckets create gs://no_bucket --location=us-west4"),
    "api": (["--type=tpu7x-16", "--ignore=type"], "the Cloud TPU API does not know tpu7x-16; give --api=compute_engine"),
    "commit": (["--commit=no_such"], "has no commit no_such"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BEFORE)
def test_the_doctor_names_what_is_wrong_before_anything_is_created(world, run_dir, fault):
    flags, said = BEFORE[fault]
    folder = next(
        (text.partition("=")[2] for text in flags if text.startswith("MODEL_DIR")), run_dir
    )
    flags = [text for text in flags if text.startswith("--")]
    start = time.monotonic()
    done = world.call(
        "tpu_vm.py", "create" if fault == "api" else "doctor", *SLICE, *flags, *_run(folder)
    )
    assert time.monotonic() - start < 30
    _one_line(done, said)
    assert not world.calls("create")


def test_a_commit_that_is_not_pushed_and_changes_that_are_not_committed(world, run_dir, tmp_path):
    checkout = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", world.repository, checkout], check=True)
    origin = subprocess.run(
        ["git", "-C", world.repository, "remote", "get-url", "origin"], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(
        ["git", "-C", checkout, *identity, "commit", "--quiet", "--allow-empty", "-m", "x"],
        check=True,
    )
    subprocess.run(["git", "-C", checkout, "remote", "set-url", "origin", origin], check=True)
    (checkout / "setup.py").write_text("")
    world.repository = checkout
    done = world.call("tpu_vm.py", "doctor", *SLICE, *_run(run_dir))
    assert "git push origin HEAD" in done.error
    assert "1 files differ from" in done.error
    _one_line(done, "launch: 2 faults, named above; nothing was created")
    done = world.call(
        "tpu_vm.py",
        "doctor",
        *SLICE,
        "--repository=git@github.com:a/b",
        "--ignore=commit",
        *_run(run_dir),
    )
    assert done.code == 0, done.error
    assert "the machines have no key for an address by SSH" in done.out
    assert "(--ignore=commit)" in done.out


def test_a_checkout_that_was_changed_on_a_machine_is_not_overwritten(world, run_dir):
    assert world.call("tpu_vm.py", "run", *SLICE, *_run(run_dir)).code == 0
    changed = world.folder / "worker_1" / "cotdistill_jax" / "setup.py"
    changed.write_text("mine")
    _one_line(
        world.call("tpu_vm.py", "run", *SLICE, *_run(run_dir, 40)), "was changed by hand: git -C"
    )
    assert changed.read_text() == "mine"


COMPUTE = (
    "--name=run",
    "--zone=us-west4-a",
    "--api=compute_engine",
    "--poll_seconds=1",
    "--t5x",
    "--spot",
)


def test_a_slice_of_several_machines_on_compute_engine(world, run_dir):
    world.change(course=["PROVISIONING", "RUNNING"])
    process = world.start(
        "tpu_vm.py", "run", *COMPUTE, "--type=v5p-16", "--project=p", *_run(run_dir, 300)
    )
    _wait((run_dir / "checkpoint_10").exists, process)
    world.change(requests={**world.read()["requests"], "instance-groups run": ["STOPPED"]})
    for worker in (0, 1):
        world.kill_machine(worker)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, out + error
    made = [call for call in world.calls("--quiet") if {"create", "resize"} & set(call)]
    assert [call[2] if call[1] != "alpha" else call[3] for call in made] == [
        "resource-policies", "instance-templates", "instance-groups", "instance-groups", "instance-groups",
    ]  # fmt: skip
    assert {"--type=HIGH_THROUGHPUT", "--accelerator-topology=2x2x2", "--region=us-west4"} <= set(
        made[0]
    )
    assert {
        "--machine-type=ct5p-hightpu-4t",
        "--provisioning-model=SPOT",
        "--maintenance-policy=TERMINATE",
    } <= set(made[1])
    assert {
        "--size=2",
        "--target-size-policy-mode=bulk",
        "--workload-policy=projects/p/regions/us-west4/resourcePolicies/run",
    } <= set(made[2])
    assert [call[-2] for call in made[3:]] == ["--size=0", "--size=2"]
    world.call("tpu_vm.py", "delete", *COMPUTE, "--type=v5p-16", "--project=p")
    assert world.read()["requests"] == {}


def test_one_machine_on_compute_engine_is_an_instance(world, run_dir):
    world.change(course=["STAGING", "RUNNING"], instances=["run"], hosts=1)
    done = world.call("tpu_vm.py", "run", *COMPUTE, "--type=v6e-8", *_run(run_dir))
    assert done.code == 0, done.said
    (create,) = world.calls("create")
    assert create[1:5] == ["compute", "instances", "create", "run"]
    assert "--machine-type=ct6e-standard-8t" in create
    assert (
        world.status(0)["command"][-1] == "--gin.TRAIN_STEPS=20"
    )  # one process needs no flag for several
    done = world.call(
        "tpu_vm.py", "doctor", *COMPUTE, "--type=v5litepod-8", "--name=other", *_run(run_dir)
    )
    _one_line(done, "it has no v5litepod-8")


DRY_RUNS = {
    "tpu": ("run", "--type=v5litepod-16", "--spot", "--internal_ips", "--network=n", "--subnetwork=s", "--service_account=a@b"),
    "tpu reserved": ("create", "--type=v5litepod-8", "--reservation=r", "--project=p"),
    "compute engine": ("run", "--api=compute_engine", "--type=v6e-16", "--spot", "--internal_ips", "--network=n", "--subnetwork=s"),
    "one machine": ("create", "--api=compute_engine", "--type=tpu7x-8", "--reservation=r", "--service_account=a@b"),
    "delete": ("delete", "--type=v5p-16"),
    "delete group": ("delete", "--api=compute_engine", "--type=v5p-16"),
}  # fmt: skip


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_calls_nothing_and_gcloud_knows_all_that_it_prints(
    world, run_dir, name, tmp_path
):
    action, *flags = DRY_RUNS[name]
    done = world.call(
        "tpu_vm.py",
        action,
        "--name=run",
        "--zone=us-west4-a",
        "--dry_run",
        *flags,
        *_run("gs://bucket/run"),
    )
    assert done.code == 0, done.error
    assert world.calls() == []
    printed = [call for call in _printed(done.out) if call[0] == "gcloud"]
    assert any(action in call or "create" in call for call in printed)
    tree = _gcloud_tree()
    for command in printed:
        here, flags = tree, set(tree["flags"])
        for word in command[1:]:
            if word in here["commands"]:
                here = here["commands"][word]
                flags |= set(here["flags"])
            elif word.startswith("--"):
                assert word.partition("=")[0] in flags, (word, command)
        assert not here["commands"], f"{command} is a group of commands"


@functools.cache
def _gcloud_tree():
    """All commands and flags of the gcloud that is installed: what its shell completion reads."""
    gcloud = shutil.which("gcloud")
    found = gcloud and sorted(
        pathlib.Path("/").glob("usr/lib*/google-cloud-sdk/data/cli/gcloud_completions.py")
    )
    if not found:
        pytest.skip("no gcloud here: whether it knows these flags can't be looked up")
    text = found[0].read_text()
    return ast.literal_eval(text[text.index("{") :])


def _printed(out):
    """The calls of a dry run, read as a shell reads them."""
    found = re.findall(r"^\$ (.*?)(?=^\$ |^# |^tpu_vm: |\Z)", out, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(text) for text in found]


def test_every_file_that_the_documentation_names_is_there():
    folder = pathlib.Path(__file__).parents[3] / "scripts" / "launch"
    for text in folder.glob("*.py"):
        for name in re.findall(r"scripts/launch/(\w+\.\w+)", text.read_text()):
            assert (folder / name).exists(), (text, name)
