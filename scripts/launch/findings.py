"""What a doctor finds: one line for each fault, with what, where and what to do."""

import dataclasses
import sys
from collections.abc import Callable, Iterable

KINDS = {
    "credentials": "gcloud has an account",
    "zone": "it exists and has TPUs",
    "type": "the zone has such a slice",
    "bucket": "it is there; a file can be written and deleted in it",
    "commit": "it is pushed, the checkout is that commit",
    "config": "the gin files can be read; all hosts resolve them alike",
    "coordinator": "process 0 has an address that the other hosts reach",
    "gpus": "the processes see the GPUs that the scheduler gave",
    "driver": "no process holds the TPU",
    "mesh": "it multiplies to the devices and divides model and batch",
    "grace": "the time between SIGTERM and the end is enough for a checkpoint",
    "leftover": "no request of this name that failed or was suspended",
    "clock": "it is right",
    "hosts": "each answers; several have a folder in common",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault.

    Attributes:
        kind: one of `KINDS`.
        where: machine, zone, file or flag.
        what: got and expected.
        remedy: what to do.
    """

    kind: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        return " ".join(
            f"doctor: {self.kind}: {self.where}: {self.what}. What to do: {self.remedy}".split()
        )


Check = Callable[[], Iterable[Finding]]


def report(checks: Iterable[Check], ignored: Iterable[str]) -> int:
    """Runs checks and prints what they find; returns the number of faults whose kind is not ignored."""
    faults = 0
    for check in checks:
        for finding in check():
            if finding.kind in ignored:
                print(f"{finding} (--ignore={finding.kind})")
            else:
                print(finding, file=sys.stderr)
                faults += 1
    sys.stderr.flush()
    return faults
