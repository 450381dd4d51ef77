"""Calls of `gcloud`, `sbatch`, `git`: printed as a shell would read them, and what their errors mean."""

import dataclasses
import pathlib
import re
import shlex
import subprocess
from collections.abc import Sequence


class CallError(Exception):
    """A command failed: one line with what, where and what to do."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command said.

    Attributes:
        code: its exit status.
        out: standard output.
        error: standard error.
    """

    code: int
    out: str
    error: str


@dataclasses.dataclass(frozen=True)
class Calls:
    """Runs commands; with `dry_run` none: each is printed, quoted for a shell, and taken to have succeeded.

    Attributes:
        dry_run: whether nothing is run.
    """

    dry_run: bool = False

    def ask(self, *command: str, timeout: float | None = 60) -> Answer:
        """Returns the answer of a command that changes nothing, whatever its exit status."""
        if self.dry_run:
            print(f"$ {shlex.join(command)}")
            return Answer(0, "", "")
        return _run(command, timeout)

    def change(self, *command: str, timeout: float | None = None) -> str:
        """Prints and runs a command that changes something; returns what it printed.

        Raises:
            CallError: it failed.
        """
        print(f"$ {shlex.join(command)}", flush=True)
        if self.dry_run:
            return ""
        answer = _run(command, timeout)
        if answer.code:
            raise CallError(explain(command, answer))
        return answer.out


def _run(command: Sequence[str], timeout: float | None) -> Answer:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        return Answer(127, "", f"{command[0]}: command not found")
    except subprocess.TimeoutExpired:
        return Answer(124, "", f"no answer within {timeout:.0f} s")
    return Answer(done.returncode, done.stdout, done.stderr)


# What a message contains -> what it means and what to do. The first that fits.
_MEANINGS = (
    (r"command not found", "it is not installed here: https://cloud.google.com/sdk/docs/install, or `module load slurm` on a cluster"),
    (r"do not currently have an active account|gcloud auth login|could not automatically determine credentials|Reauthentication",
     "no credentials: gcloud auth login (on a VM: give it a service account)"),
    (r"clock skew|reasonable timeframe|Token used too early|iat and exp|RequestTimeTooSkewed|certificate is not yet valid",
     "this machine's clock is wrong: sudo timedatectl set-ntp true, then compare `date -u` with another machine's"),
    (r"SERVICE_DISABLED|has not been used in project|API \[.*\] not enabled",
     "the API is off in this project: gcloud services enable tpu.googleapis.com compute.googleapis.com storage.googleapis.com"),
    (r"no more capacity|ZONE_RESOURCE_POOL_EXHAUSTED|stockout|not enough resources|does not have enough resources|insufficient capacity",
     "the zone has none left: run the same command later, or with another --zone; a queued resource (--api=tpu) waits for capacity"),
    (r"[Qq]uota|RESOURCE_EXHAUSTED|rateLimitExceeded",
     "the quota is used up: ask for more (console: IAM, Quotas), or give another --zone or --type; TPU API and Compute Engine count apart"),
    (r"PERMISSION_DENIED|[Pp]ermission .*denied|does not have .*(access|permission)|HTTPError 403|status 403",
     "this account may not: it needs roles/tpu.admin, roles/compute.instanceAdmin.v1, roles/iam.serviceAccountUser and, for a bucket, roles/storage.objectAdmin"),
    (r"accelerator ?type .*not found|Invalid value .*accelerator|machineTypes/.*not found|is not available in zone|topology",
     "this zone does not have that type: `doctor` lists what it has"),
    (r"zone.*(not found|does not exist|unknown)|Unknown zone|[Ii]nvalid .*zone|Location .* is not found",
     "there is no such zone, or no TPU in it: gcloud compute tpus locations list"),
    (r"404.*bucket|bucket.*(not found|does not exist)|NoSuchBucket", "make it: gcloud storage buckets create gs://NAME --location=REGION"),
    (r"Connection refused|Connection timed out|port 22|Connection closed|exit code \[255\]|return code \[255\]|network.*unreachable",
     "the machine does not answer on port 22: just booting, gone, or a firewall (with --internal_ips reach it from a VM of its network)"),
    (r"NOT_FOUND|was not found|could not be found", "it is not there: `status` shows what is"),
)  # fmt: skip


def meaning(text: str) -> str | None:
    """Returns what an error message of a cloud or a scheduler means and what to do; None: not known."""
    return next(
        (said for pattern, said in _MEANINGS if re.search(pattern, text, re.IGNORECASE)), None
    )


def explain(command: Sequence[str], answer: Answer, where: str = "") -> str:
    """Returns one line about a command that failed: where, what was called, its error, what to do."""
    lines = [line.strip() for line in (answer.error or answer.out).splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "error" in line.lower()]
    said = (errors or lines[-1:] or [f"exit status {answer.code}, and not a word"])[0]
    said = re.sub(r"^ERROR: (\(gcloud[\w.-]*\) )?", "", said)[:400]
    known = meaning(answer.error + answer.out)
    name = " ".join([pathlib.Path(command[0]).name, *_words(command[1:])])
    return f"launch: {where}{name}: {said}" + (f". What to do: {known}" if known else "")


def _words(arguments: Sequence[str]) -> list[str]:
    """Returns a command's words up to its first flag."""
    first = next((i for i, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    return list(arguments[:first])
