r"""Trains on several GPU nodes of a SLURM cluster: writes a job script, has it looked at, submits it.

    python scripts/launch/slurm.py submit --name=xl --nodes=4 --gpus_per_node=8 --partition=gpu --time=24:00:00 -- RUN
    python scripts/launch/slurm.py doctor|status|logs|stop --name=xl ...

with RUN as after `python -m cotdistill_jax.train` (with --t5x: `python -m t5x.train`), MODEL_DIR on a file system that all nodes
share, or in a bucket. Submitted again while the job is there, it says so; afterwards, the run continues.

The job: the doctor on every node, then `supervise.py` around `srun`, one process a node (--processes=node) or a GPU (gpu).
`--multihost` finds the other processes by SLURM's variables; the coordinator listens on the first node. JAX takes one GPU a
process under SLURM unless JAX_LOCAL_DEVICE_IDS says otherwise: the job sets it for one process a node.

--grace_seconds before the time limit SLURM sends SIGTERM to the supervisor, which passes it on by `scancel --signal` (a signal to
`srun` itself would end the step after KillWait, 30 s by default); the run saves, and the job is put into the queue again. A
preemption or a failed node does the same (`--requeue`). `stop` ends the job after a save, for good.

Files: `--jobs_dir`/NAME.sbatch, NAME.log. --dry_run prints script and calls. Exit status: 0, or 1 with one line.
"""

import difflib
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence

import calls
import host
import workers
from absl import app, flags
from findings import KINDS, Finding, report

_ACTIONS = ("doctor", "submit", "status", "logs", "stop")
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_WAIT_SECONDS = (
    120  # for the other processes of a step in which one has ended; JAX notices within 100
)

_NAME = flags.DEFINE_string("name", None, "Of the job and the run.", required=True)
_NODES = flags.DEFINE_integer("nodes", 1, "Machines.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus_per_node", 8, "GPUs of each.", lower_bound=0)
_PROCESSES = flags.DEFINE_enum("processes", "node", ["node", "gpu"], "One process for each.")
_PARTITION = flags.DEFINE_string("partition", None, "Of the cluster; default its own.")
_ACCOUNT = flags.DEFINE_string("account", None, "To be charged.")
_TIME = flags.DEFINE_string(
    "time", "24:00:00", "Limit of one job; a run takes as many as it needs."
)
_GRACE = flags.DEFINE_integer("grace_seconds", 300, "SIGTERM so long before the limit.")
_SBATCH = flags.DEFINE_multi_string("sbatch", [], "Further line of the script: --constraint=h100.")
_EXTRA = flags.DEFINE_string("extra", "cuda", "Extra of setup.py for scripts/environment.sh.")
_ENV = flags.DEFINE_multi_string("env", [], "NAME=VALUE for the run.")
_T5X = flags.DEFINE_bool("t5x", False, "Run T5X's binary.")
_JOBS = flags.DEFINE_string("jobs_dir", "jobs", "Folder of scripts and logs, shared by the nodes.")
_IGNORE = flags.DEFINE_list("ignore", [], f"Kinds of faults to let pass: {', '.join(KINDS)}.")
_MAX_CRASHES = flags.DEFINE_integer("max_crashes", 5, "See supervise.py.")
_FIRST_WAIT = flags.DEFINE_float("first_wait_seconds", 5, "See supervise.py.")
_LINES = flags.DEFINE_integer("lines", 100, "Of the log.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print script and calls, make none.")


def job_script(run: Sequence[str], log: pathlib.Path) -> str:
    """Returns the script for sbatch.

    Args:
        run: flags of the training command.
        log: where it writes, continued by a job that was put into the queue again.
    """
    per_node = 1 if _PROCESSES.value == "node" else max(_GPUS.value, 1)
    command = workers.train_command(run, _NODES.value * per_node, _T5X.value)
    options = [
        f"--job-name={_NAME.value}", f"--nodes={_NODES.value}", f"--ntasks-per-node={per_node}",
        *([f"--gpus-per-node={_GPUS.value}"] if _GPUS.value else []), f"--time={_TIME.value}",
        f"--signal=B:TERM@{_GRACE.value}", "--requeue", "--open-mode=append", f"--output={log}",
        *([f"--partition={_PARTITION.value}"] if _PARTITION.value else []),
        *([f"--account={_ACCOUNT.value}"] if _ACCOUNT.value else []), *_SBATCH.value,
    ]  # fmt: skip
    gpus = [f"--gpus-per-node={_GPUS.value}", "--gpu-bind=none"] if _GPUS.value else []
    step = ["srun", "--kill-on-bad-exit=0", f"--wait={_WAIT_SECONDS}", *gpus]
    doctor = [
        "srun", f"--ntasks={_NODES.value}", "--ntasks-per-node=1", *gpus, "python", "scripts/launch/doctor.py",
        f"--num_hosts={_NODES.value}", f"--processes_per_node={per_node}", f"--grace_seconds={_GRACE.value}",
        *([f"--num_devices={_NODES.value * _GPUS.value}"] if _GPUS.value else []),
        *([f"--ignore={','.join(_IGNORE.value)}"] if _IGNORE.value else []), "--", *command,
    ]  # fmt: skip
    supervisor = [
        "python", "scripts/launch/supervise.py", f"--name={_NAME.value}", f"--max_crashes={_MAX_CRASHES.value}",
        f"--first_wait_seconds={_FIRST_WAIT.value}",
    ]  # fmt: skip
    local = ",".join(str(number) for number in range(_GPUS.value))
    one_a_node = f"export JAX_LOCAL_DEVICE_IDS={local}\n" if per_node == 1 and _GPUS.value else ""
    exports = "".join(
        f"export {name}={shlex.quote(value)}\n"
        for name, value in (text.split("=", 1) for text in _ENV.value)
    )
    lines = "".join(f"#SBATCH {option}\n" for option in options)
    return f"""#!/bin/bash
{lines}set -eo pipefail
cd {shlex.quote(str(_ROOT))}
source scripts/environment.sh {_EXTRA.value}
{one_a_node}{exports}{shlex.join(doctor)}
exec {shlex.join(supervisor)} --on_stop="scancel --signal=TERM $SLURM_JOB_ID" --resubmit="scontrol requeue $SLURM_JOB_ID" \\
  -- {shlex.join([*step, *command])}
"""


def check_before(called: calls.Calls, run: Sequence[str]) -> Iterator[Finding]:
    """Yields what would let the job fail after hours in the queue."""
    answer = called.ask("sinfo", "--noheader", "--format=%R")
    partitions = sorted(set(answer.out.split()))
    if answer.code:
        yield Finding(
            "type",
            "sinfo",
            calls.explain(["sinfo"], answer),
            "run it on a login node of the cluster",
        )
    elif _PARTITION.value and _PARTITION.value not in partitions:
        close = difflib.get_close_matches(_PARTITION.value, partitions, n=3, cutoff=0.5)
        yield Finding(
            "type", f"--partition={_PARTITION.value}", f"there is none; close: {', '.join(close) or 'none'}", f"one of {', '.join(partitions)}"
        )  # fmt: skip
    yield from host.loopback(run, _NODES.value)
    folder = host.model_dir(run)
    yield from host.run_folder(folder, _NODES.value, shared=True)
    yield from host.short_grace(folder, _GRACE.value, None, _NODES.value, 1)
    changed = workers.Repository(str(_ROOT)).changed()
    if changed:
        print(
            f"doctor: {len(changed)} files of {_ROOT} differ from its commit; the nodes run them as they are when a job begins"
        )


def job(called: calls.Calls) -> str | None:
    """Returns `ID STATE REASON` of this name's job; None: there is none."""
    command = ("squeue", "--me", f"--name={_NAME.value}", "--noheader", "--format=%i %T %r")
    answer = called.ask(*command)
    if answer.code:
        raise calls.CallError(calls.explain(command, answer))
    return answer.out.strip().splitlines()[0] if answer.out.strip() else None


def submit(called: calls.Calls, run: Sequence[str]) -> None:
    """Writes the script and submits it, unless its job is there."""
    folder = pathlib.Path(_JOBS.value).resolve()
    script = job_script(run, folder / f"{_NAME.value}.log")
    there = job(called)
    if there:
        print(f"slurm: {_NAME.value} is there: {there}; nothing was submitted")
        return
    if called.dry_run:
        print(script)
    elif report([lambda: check_before(called, run)], _IGNORE.value):
        raise calls.CallError("launch: faults, named above; nothing was submitted")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{_NAME.value}.sbatch").write_text(script, encoding="utf-8")
    said = called.change("sbatch", "--parsable", str(folder / f"{_NAME.value}.sbatch"))
    print(f"slurm: submitted as job {said.strip()}; log: {folder / f'{_NAME.value}.log'}")


def main(arguments: Sequence[str]) -> int:
    action, run = (arguments[1:2] or [""])[0], list(arguments[2:])
    if action not in _ACTIONS:
        raise app.UsageError(f"slurm: {action!r} is no action; one of {', '.join(_ACTIONS)}")
    if action in ("doctor", "submit") and not run:
        raise app.UsageError("slurm: give the flags of the run after `--`")
    wrong = [text for text in _ENV.value if "=" not in text]
    if wrong:
        raise app.UsageError(f"slurm: --env={wrong[0]}: give NAME=VALUE")
    called = calls.Calls(_DRY_RUN.value)
    log = pathlib.Path(_JOBS.value) / f"{_NAME.value}.log"
    try:
        if action == "submit":
            submit(called, run)
        elif action == "doctor":
            faults = report([lambda: check_before(called, run)], _IGNORE.value)
            print(f"slurm: {faults} faults; the nodes are looked at when the job begins")
            return min(faults, 1)
        elif action == "status":
            print(f"slurm: {job(called) or 'no job'}")
        elif action == "stop":
            found = job(called)
            print(f"slurm: {found or 'no job: nothing to stop'}")
            if found or called.dry_run:
                # To the batch script alone: the supervisor, which saves and, after SIGINT, does not begin again.
                called.change("scancel", "--batch", "--signal=INT", (found or "JOB").split()[0])
        elif log.exists():
            print(
                "".join(log.read_text(errors="replace").splitlines(keepends=True)[-_LINES.value :]),
                end="",
            )
        else:
            raise calls.CallError(f"launch: there is no {log} yet; `status` shows the job")
    except (calls.CallError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
