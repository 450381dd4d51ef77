r"""Names what is wrong with a host before a run begins there: one line for each fault; exit status 1 if there is any.

    python scripts/launch/doctor.py --num_hosts=4 --num_devices=16 --grace_seconds=30 -- python -m cotdistill_jax.train --gin_file=...

The launchers run it on every host, in the environment of the run, and compare the last line between hosts. What it looks at beside
the launcher's own checks (zone, type, bucket, commit pushed, request left over: `before.py`): `findings.KINDS`.
It takes no device: it may run beside a training run.
"""

import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import host
import resolved
import workers
from absl import app, flags
from findings import KINDS, Finding, report

_HOSTS = flags.DEFINE_integer("num_hosts", 1, "Hosts of the run.")
_DEVICES = flags.DEFINE_integer("num_devices", None, "JAX devices of all hosts together.")
_PER_NODE = flags.DEFINE_integer("processes_per_node", 1, "Processes of the run on a host.")
_GRACE = flags.DEFINE_float(
    "grace_seconds",
    None,
    "Between SIGTERM and the end: 30 on a spot VM, what --signal says on SLURM.",
)
_RATE = flags.DEFINE_float(
    "save_gigabytes_per_second", 0.5, "Of a host: assumed as long as no save has been measured."
)
_IGNORE = flags.DEFINE_list("ignore", [], f"Kinds of faults to let pass: {', '.join(KINDS)}.")
_CLOCK = flags.DEFINE_string(
    "clock", "https://storage.googleapis.com/", "A server whose clock is right; '' compares none."
)


def main(arguments: Sequence[str]) -> int:
    command, hosts = list(arguments[1:]), _HOSTS.value
    unknown = sorted(set(_IGNORE.value) - set(KINDS))
    if unknown:
        raise app.UsageError(f"doctor: --ignore={','.join(unknown)}: kinds are {', '.join(KINDS)}")
    folder = host.model_dir(command)
    in_bucket = folder is not None and "://" in folder
    checks: list[Any] = [
        host.busy_driver,
        lambda: host.hidden_gpus(os.environ, _PER_NODE.value),
        lambda: host.loopback(command, hosts),
        lambda: host.clock_skew(_CLOCK.value if in_bucket else ""),
        lambda: host.run_folder(folder, hosts, shared="SLURM_JOB_ID" in os.environ),
    ]
    found = None
    if "cotdistill_jax.train" in command:
        try:
            found = resolved.Resolved(command)
        except (ValueError, OSError, KeyError) as error:
            said = Finding(
                "config", shlex.join(command)[:200], str(error), "mend the gin file or the binding"
            )
            checks.append(lambda: [said])
    else:
        print(
            "doctor: the configuration is not resolved here: not a command of cotdistill_jax.train"
        )
    if found:
        checks.append(lambda: found.wrong_mesh(_DEVICES.value))
    size = found.state_bytes if found else None
    checks.append(lambda: host.short_grace(folder, _GRACE.value, size, hosts, _RATE.value))
    faults = report(checks, _IGNORE.value)
    commit = workers.Repository(str(pathlib.Path(__file__).parent)).commit()
    print(
        f"doctor: commit {commit}, configuration {found.digest if found else 'not resolved'}; {faults} faults"
    )
    return min(faults, 1)


if __name__ == "__main__":
    app.run(main)
