"""Checks of one host: who holds its TPU, which GPUs it sees, its clock, whether it can write the run's folder in time."""

import email.utils
import json
import os
import pathlib
import re
import socket
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import calls
from findings import Finding

LOCKFILE = "/tmp/libtpu_lockfile"
TPU_DEVICES = ("/dev/accel", "/dev/vfio/")
MOST_SKEW_SECONDS = 60


def busy_driver(
    lockfile: str = LOCKFILE, devices: Sequence[str] = TPU_DEVICES, proc: str = "/proc"
) -> Iterator[Finding]:
    """Yields who holds the TPU, from the open files of all processes, and a lock file that a dead one left."""
    holders = []
    unread = 0
    for process in pathlib.Path(proc).glob("[0-9]*"):
        try:
            opened = {os.readlink(file) for file in (process / "fd").iterdir()}
            command = (
                (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except PermissionError:
            unread += 1
            continue
        except OSError:  # it has ended
            continue
        held = sorted(path for path in opened if path.startswith(tuple(devices)))
        if held and int(process.name) != os.getpid():
            holders.append((process.name, held[0], command.strip()[:120]))
    for pid, path, command in holders:
        yield Finding(
            "driver", socket.gethostname(), f"process {pid} ({command}) holds {path}",
            f"if no run should be there: kill {pid}, then try again",
        )  # fmt: skip
    if pathlib.Path(lockfile).exists() and not holders:
        owner = pathlib.Path(lockfile).owner()
        who = (
            f"; {unread} processes of other users could not be looked into (run it as root)"
            if unread
            else ""
        )
        yield Finding(
            "driver", socket.gethostname(), f"{lockfile} of {owner} is there and no process holds the TPU{who}",
            f"a killed process left it: sudo rm {lockfile}",
        )  # fmt: skip


def hidden_gpus(environment: Mapping[str, str], processes_per_node: int) -> Iterator[Finding]:
    """Yields how the processes of a SLURM job don't see its GPUs, or JAX wouldn't take all of them."""
    if "SLURM_JOB_ID" not in environment:
        return
    names = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE")
    given = {name: environment[name] for name in names if environment.get(name)}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    where = f"node {environment.get('SLURMD_NODENAME', socket.gethostname())}"
    if given and visible is not None and visible.strip() in ("", "NoDevFiles", "-1"):
        yield Finding(
            "gpus", where, f"SLURM gave GPUs ({given}) but CUDA_VISIBLE_DEVICES is {visible!r} for this step",
            "srun must ask for them, too: srun --gpus-per-node=N (or --gres=gpu:N)",
        )  # fmt: skip
        return
    if not visible:
        return
    count = len(visible.split(","))
    wanted = environment.get("JAX_LOCAL_DEVICE_IDS")
    if wanted is None and processes_per_node == 1 and count > 1:
        yield Finding(
            "gpus", where, f"one process sees {count} GPUs, and under SLURM JAX takes the one with the process's local number",
            f"export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(count)))}",
        )  # fmt: skip
    if wanted is None and processes_per_node > count:
        yield Finding(
            "gpus", where, f"{processes_per_node} processes of this node see {count} GPUs, and each would take the one with its local number",
            "bind none: srun --gpu-bind=none, so that each process sees all of the node's",
        )  # fmt: skip


def loopback(command: Sequence[str], num_hosts: int) -> Iterator[Finding]:
    """Yields a coordinator that only its own host reaches."""
    if num_hosts < 2:
        return
    found = [
        text.partition("=")[2] for text in command if text.startswith("--coordinator_address=")
    ]
    for address in found:
        name = address.rpartition(":")[0].strip("[]")
        if _is_loopback(name):
            yield Finding(
                "coordinator", f"--coordinator_address={address}", f"the loopback address, for a run of {num_hosts} hosts",
                "give process 0's address in their network (hostname -I), or --multihost alone, which finds it",
            )  # fmt: skip
    own = os.environ.get("SLURMD_NODENAME", "")
    if not found and own and _is_loopback(own):
        yield Finding(
            "coordinator", own, "its own name leads to the loopback address, where process 0 would listen",
            "take the line `127.0.1.1 NAME` out of /etc/hosts, or give --coordinator_address, --process_count and --process_index",
        )  # fmt: skip


def _is_loopback(name: str) -> bool:
    try:
        return socket.gethostbyname(name).startswith("127.") or name == "::1"
    except OSError:
        return name in ("localhost", "::1")


def clock_skew(server: str) -> Iterator[Finding]:
    """Yields a clock that is more than a minute off: buckets refuse what it signs."""
    if not server:
        return
    try:
        with urllib.request.urlopen(
            urllib.request.Request(server, method="HEAD"), timeout=5
        ) as said:
            date = said.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except OSError as error:
        print(f"doctor: clock not compared: {server} does not answer ({error})")
        return
    skew = time.time() - email.utils.parsedate_to_datetime(date).timestamp()
    if abs(skew) > MOST_SKEW_SECONDS:
        yield Finding(
            "clock", socket.gethostname(), f"it is {skew:+.0f} s off {server}'s", "sudo timedatectl set-ntp true"
        )  # fmt: skip


def as_path(folder: str) -> Any:
    """Returns a path that may be in a bucket."""
    if "://" not in folder:
        return pathlib.Path(folder).expanduser()
    from cotdistill_jax import files

    return files.as_path(folder)


def run_folder(folder: str | None, num_hosts: int, shared: bool) -> Iterator[Finding]:
    """Yields why MODEL_DIR can't be the folder of this run: a file is written there and deleted."""
    if folder is None:
        yield Finding(
            "config",
            "the command",
            "no --gin.MODEL_DIR",
            "give --gin.MODEL_DIR='\"gs://BUCKET/RUN\"'",
        )
        return
    if "://" not in folder and num_hosts > 1 and not shared:
        yield Finding(
            "hosts", folder, f"a local folder, and the {num_hosts} hosts of a slice share none", "give MODEL_DIR in a bucket, gs://..."
        )  # fmt: skip
        return
    path = as_path(folder)
    probe = path / f".writable-{uuid.uuid4().hex}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # noqa: BLE001  (every file system has errors of its own)
        said = " ".join(str(error).split())[:300]
        yield Finding(
            "bucket", folder, f"can't be written from {socket.gethostname()}: {said}",
            calls.meaning(said) or "choose another MODEL_DIR, or mend its permissions",
        )  # fmt: skip


def model_dir(command: Sequence[str]) -> str | None:
    """Returns the MODEL_DIR that a command binds, without quotes."""
    found = [text.partition("=")[2] for text in command if text.startswith("--gin.MODEL_DIR=")]
    return found[-1].strip("\"'") if found else None


def measured_save_seconds(folder: Any) -> tuple[int, float] | None:
    """Returns the step of the newest checkpoint and the seconds from its begin to its commit, as Orbax noted them."""
    newest: tuple[int, float] | None = None
    if not folder.exists():
        return None
    for path in folder.iterdir():
        match = re.fullmatch(r"checkpoint_(\d+)", path.name)
        notes = path / "_CHECKPOINT_METADATA"
        if match and notes.exists() and (newest is None or int(match[1]) > newest[0]):
            said = json.loads(notes.read_text())
            begin, end = said.get("init_timestamp_nsecs"), said.get("commit_timestamp_nsecs")
            if begin and end:
                newest = int(match[1]), (end - begin) / 1e9
    return newest


def short_grace(
    folder: str | None, grace: float | None, state_bytes: float | None, num_hosts: int, rate: float
) -> Iterator[Finding]:
    """Yields a grace period that is shorter than a save: measured in the run's folder, else estimated.

    Args:
        folder: the run's; None: not known.
        grace: seconds between SIGTERM and the end; None: no matter.
        state_bytes: of parameters and optimizer state; None: not known.
        num_hosts: that write their parts at the same time.
        rate: GB a second of a host.
    """
    if grace is None or folder is None:
        return
    measured = measured_save_seconds(as_path(folder))
    if measured:
        seconds, how = measured[1], f"measured: checkpoint {measured[0]} of {folder}"
    elif state_bytes is not None:
        seconds = state_bytes / num_hosts / rate / 1e9
        how = f"estimated: {state_bytes / 1e9:,.1f} GB over {num_hosts} hosts at {rate} GB/s each (assumed)"
    else:
        print(
            "doctor: grace not compared: no checkpoint yet, and the size of the state is not known"
        )
        return
    if seconds > grace:
        yield Finding(
            "grace", folder, f"a save takes {seconds:.0f} s ({how}) and {grace:.0f} s are left after SIGTERM",
            "up to SAVE_PERIOD steps are lost at each preemption: make it smaller (or more hosts, Adafactor, a longer --signal on SLURM), "
            "or accept that with --ignore=grace",
        )  # fmt: skip
