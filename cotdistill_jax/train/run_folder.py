"""What a run folder says about its run.

| file | content |
|---|---|
| `config.gin` | the resolved configuration |
| `manifest.json` | command, code version, packages, devices, data: of the latest start |
| `starts.jsonl` | the same for every start, one line each, with the step it went on from and what had changed |
| `time.json` | per start what its seconds were spent on, see `run_time.py` |
| `data_counts.json` | per task: examples seen, kept, dropped as too long |
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

import cotdistill_jax
from cotdistill_jax import files
from cotdistill_jax.features import LengthReport
from cotdistill_jax.files import write_json_atomically
from cotdistill_jax.train import config_changes

MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "config.gin"
DATA_COUNTS_FILE = "data_counts.json"
STARTS_FILE = "starts.jsonl"
SCHEMA_VERSION = 2
_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "tensorflow-text", "numpy",
    "clu", "gin-config", "sentencepiece",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Description:
    """How a run was asked for.

    Attributes:
      config: what `gin.config_str()` returns.
      command: the command line.
      allow_changes: whether an existing run may go on with a configuration under which it learns otherwise.
    """

    config: str
    command: Sequence[str]
    allow_changes: bool = False


def prepare(model_dir: files.AnyPath) -> files.Path:
    """Returns the run folder, made where missing and seen to be writable and, with several hosts, shared by them.

    Raises:
      ValueError: its name would be read as a pattern, it is in a kind of bucket that runs can't be written to, or the hosts do not
        share it.
      OSError: it can't be made or written; the message names the folder and the reason.
    """
    folder = files.as_path(model_dir)
    files.refuse_pattern(str(folder.absolute()), "train", "run folder", "Orbax")
    if isinstance(folder, files.BucketPath):
        if folder.scheme != "gs":
            raise ValueError(
                f"train: a run can't be written to {folder}: TensorFlow and Orbax, which write a part of it, know gs:// alone. Give a "
                "MODEL_DIR in gs:// or on a shared disk, and copy it"
            )
        folder.check_writable()
        return folder
    probe = folder / f".writable-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            error.errno,
            f"train: the run folder can't be written ({error.strerror}); choose another MODEL_DIR",
            os.fspath(folder),
        ) from error
    _check_shared(folder)
    return folder


def _check_shared(folder: pathlib.Path) -> None:
    """Raises ValueError where one of several hosts does not see what the first one writes."""
    if jax.process_count() == 1:
        return
    token = multihost_utils.broadcast_one_to_all(np.int32(uuid.uuid4().int % 2**31))
    probe = folder / f".shared-{int(token)}"
    if jax.process_index() == 0:
        probe.touch()
    multihost_utils.sync_global_devices("shared")
    seen = multihost_utils.process_allgather(np.asarray(probe.exists()))
    if jax.process_index() == 0:
        probe.unlink()
    if not seen.all():
        raise ValueError(
            f"train: MODEL_DIR {folder} is another folder on process {np.flatnonzero(~seen)[0]} than on process 0: it lies on a disk "
            "that the hosts do not share, so that no checkpoint would be whole. Give a folder that all see, such as gs://BUCKET/RUN"
        )


def changes(
    folder: files.Path, description: Description, data: Mapping[str, Any], step: int
) -> list[config_changes.Change]:
    """Returns what differs between the folder's last start and this one: configuration and data.

    Args:
      folder: the run folder.
      description: how the run was asked for.
      data: what it reads, from `data.manifest`.
      step: the step it would go on from.

    Raises:
      ConfigChangedError: they differ so that the run would learn otherwise, and that was not allowed.
    """
    if not (folder / MANIFEST_FILE).exists() or not (folder / CONFIG_FILE).exists():
        return []
    config = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    found = config_changes.between(
        config_changes.bindings(config), config_changes.bindings(description.config)
    )
    before = files.read_json(folder / MANIFEST_FILE, "train").get("data", {})
    found += config_changes.between(_fingerprints(before), _fingerprints(data))
    config_changes.check(found, step, description.allow_changes)
    return found


def write_description(
    folder: files.Path,
    description: Description,
    data: Mapping[str, Any],
    step: int,
    mesh: Mesh,
    changed: Sequence[config_changes.Change],
) -> None:
    """Writes `config.gin`, `manifest.json` and a line of `starts.jsonl`, on the first host only.

    Args:
      folder: the run folder.
      description: how the run was asked for.
      data: what it reads, from `data.manifest`.
      step: the step it goes on from; 0 for a new run.
      mesh: the devices.
      changed: what `changes` returned.
    """
    if jax.process_index() != 0:
        return
    started = datetime.datetime.now(datetime.UTC)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "command": list(description.command),
        "started": started.isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "code": {"version": cotdistill_jax.__version__, **git_state()},
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "topology": {
            "platform": jax.default_backend(),
            "device_kind": jax.devices()[0].device_kind,
            "num_hosts": jax.process_count(),
            "num_devices": jax.device_count(),
            "mesh": dict(mesh.shape),
            "devices": [f"{device} host {device.process_index}" for device in jax.devices()],
        },
        "data": dict(data),
    }
    start = {
        **manifest,
        "step": step,
        "changes": [dataclasses.asdict(change) for change in changed],
    }
    with files.LineFile(folder / STARTS_FILE) as starts:
        starts.append(json.dumps(start).encode() + b"\n")
    files.write_atomically(folder / CONFIG_FILE, description.config)
    write_json_atomically(folder / MANIFEST_FILE, manifest)


def _fingerprints(data: Mapping[str, Any]) -> dict[str, str]:
    return {f"data of {task}": json.dumps(found, sort_keys=True) for task, found in data.items()}


def write_data_counts(
    folder: files.Path, reports: Mapping[str, LengthReport], shares: Mapping[str, float]
) -> None:
    """Writes `data_counts.json`: per task examples seen, kept, dropped as too long, their lengths, and the task's share of the
    loss; prints the shares and what is dropped.

    Does nothing on hosts but the first.
    """
    if jax.process_index() != 0:
        return
    content: dict[str, Any] = {
        name: {**dataclasses.asdict(report), "share_of_loss": shares[name]}
        for name, report in reports.items()
    }
    said = ", ".join(f"{share:.2%} {name}" for name, share in shares.items())
    print(f"train: shares of the loss (weights of target tokens): {said}")
    write_json_atomically(folder / DATA_COUNTS_FILE, content)
    for name, report in reports.items():
        if report.kept < report.examples:
            print(
                f"train: task {name}: {report.examples - report.kept:,} of {report.examples:,} examples are longer than "
                f"TASK_FEATURE_LENGTHS and are left out, none is cut: {report.over_long_inputs:,} in inputs (longest "
                f"{report.inputs.maximum:,} tokens), {report.over_long_targets:,} in targets ({report.targets.maximum:,}); "
                f"see {DATA_COUNTS_FILE}"
            )


def settings(description: Description, flags: Mapping[str, Any]) -> dict[str, str]:
    """Returns what must be the same in all processes of a run: configuration, flags, code, packages; name -> value as text."""
    return {
        **config_changes.bindings(description.config),
        **{f"--{name}": str(value) for name, value in flags.items()},
        **{f"code {name}": str(value) for name, value in git_state().items()},
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def git_state() -> dict[str, Any]:
    """Returns `{"commit": hash, "dirty": whether files differ from it}`; both None where no checkout is there."""
    root = pathlib.Path(cotdistill_jax.__file__).parents[1]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", os.fspath(root), *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        return finished.stdout.strip() if finished.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}
