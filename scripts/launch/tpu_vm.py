r"""Trains on Cloud TPU VMs, one host or a pod: makes the slice, installs a commit on it, trains until the run is done.

    python scripts/launch/tpu_vm.py doctor --name=xl --zone=us-west4-a --type=v5litepod-16 --spot -- RUN
    python scripts/launch/tpu_vm.py run    --name=xl --zone=us-west4-a --type=v5litepod-16 --spot -- RUN
    python scripts/launch/tpu_vm.py status|logs|stop|delete --name=xl --zone=us-west4-a --type=v5litepod-16

with RUN as after `python -m cotdistill_jax.train` (with --t5x: `python -m t5x.train`), MODEL_DIR in a bucket:

    --gin_file=gin/experiments/seed_xl.gin --gin_file=gin/runs/finetune.gin --gin.MODEL_DIR='"gs://BUCKET/xl"'

| action | does |
|---|---|
| `doctor` | names what is wrong; creates nothing. Where the slice is there already, its hosts are looked at, too |
| `create` | the slice, and waits until it is ready |
| `run` | what is missing of: create, install, doctor on every host, start under `supervise.py` there; then watches. A slice that was preempted is asked for anew and the run goes on, until every host says done. Ctrl-C stops the watching only |
| `status`, `logs` | how it stands on every host; the last --lines of their logs, into --output_dir |
| `stop` | SIGTERM on every host: a checkpoint, then the end; `run` continues |
| `delete` | the slice, after saying what; nothing else deletes it. (A preempted request holds its name: `run` replaces it, --norecreate does not) |

Every action can be given again at any point; what is there is used. --dry_run prints the calls instead: those of a start from nothing.
Run it on a machine that stays on (a small VM, in tmux): who is gone can't ask anew after a preemption.

--api=compute_engine: for v5p, v6e, TPU7x and newer, which the Cloud TPU API does not know.
Exit status: 0 done, 75 stopped, 1 a fault, in one line.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import before
import calls
import host
import slices
import workers
from absl import app, flags
from cloud_tpu import CloudTpu
from compute_engine import ComputeEngine
from findings import KINDS, report
from request import Request, State

_ACTIONS = ("doctor", "create", "run", "status", "logs", "stop", "delete")
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SPOT_GRACE_SECONDS = 30  # cloud.google.com/compute/docs/instances/spot: what a preempted VM gets
_UNREACHED = 5  # polls
_CALL_SECONDS = 300.0  # for a call that only asks or starts

_NAME = flags.DEFINE_string("name", None, "Of the slice and the run on it.", required=True)
_ZONE = flags.DEFINE_string("zone", None, "Such as us-west4-a.", required=True)
_TYPE = flags.DEFINE_string("type", None, "Such as v5litepod-16, v6e:4x4.", required=True)
_API = flags.DEFINE_enum("api", "tpu", ["tpu", "compute_engine"], "Which of Google's two ways.")
_PROJECT = flags.DEFINE_string("project", None, "Google Cloud project; default gcloud's.")
_SPOT = flags.DEFINE_bool("spot", False, "Cheaper, and may be preempted.")
_RESERVATION = flags.DEFINE_string("reservation", None, "Take capacity from this reservation.")
_ACCOUNT = flags.DEFINE_string("service_account", None, "That the machines run as.")
_NETWORK = flags.DEFINE_string("network", None, "Of the machines.")
_SUBNETWORK = flags.DEFINE_string("subnetwork", None, "Of the machines.")
_INTERNAL = flags.DEFINE_bool("internal_ips", False, "No addresses outside their network.")
_REPOSITORY = flags.DEFINE_string("repository", None, "To clone; default `origin`'s address.")
_COMMIT = flags.DEFINE_string("commit", "HEAD", "To install; it must be pushed.")
_T5X = flags.DEFINE_bool("t5x", False, "Run T5X's binary.")
_ENV = flags.DEFINE_multi_string("env", [], "NAME=VALUE for the run, such as COTDISTILL_TFDS_DIR.")
_RECREATE = flags.DEFINE_bool("recreate", True, "Ask anew for a slice that was preempted.")
_POLL = flags.DEFINE_float("poll_seconds", 30, "Between two looks.")
_READY = flags.DEFINE_float("ready_hours", 24, "How long to wait for capacity.")
_IGNORE = flags.DEFINE_list("ignore", [], f"Kinds of faults to let pass: {', '.join(KINDS)}.")
_MAX_CRASHES = flags.DEFINE_integer("max_crashes", 5, "See supervise.py.")
_FIRST_WAIT = flags.DEFINE_float("first_wait_seconds", 5, "See supervise.py.")
_LINES = flags.DEFINE_integer("lines", 1000, "Of each log.")
_OUTPUT = flags.DEFINE_string("output_dir", None, "For logs; default: standard output.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the calls, make none.")


def say(text: str) -> None:
    print(f"tpu_vm: {text}", flush=True)


class Launch:
    """A run on a slice."""

    def __init__(self, run: Sequence[str]) -> None:
        """Takes everything from the flags; `run` are those of the training command."""
        self.called = calls.Calls(_DRY_RUN.value)
        wanted = Request(
            _NAME.value, _ZONE.value, slices.find(_TYPE.value), _PROJECT.value, _SPOT.value,
            _RESERVATION.value, _ACCOUNT.value, _NETWORK.value, _SUBNETWORK.value, _INTERNAL.value,
        )  # fmt: skip
        self.slice = (CloudTpu if _API.value == "tpu" else ComputeEngine)(wanted, self.called)
        self.hosts = wanted.slice.num_hosts
        self.command = workers.train_command(run, self.hosts, _T5X.value)
        self.folder = host.model_dir(run)
        self.repository = workers.Repository(str(_ROOT))
        self._answered = False

    def look(self) -> tuple[State, str]:
        """Returns how the slice stands; once the cloud has answered, it may fail to for a while."""
        for tries in range(1, _UNREACHED + 1):
            try:
                found = self.slice.state()
            except calls.CallError as error:
                if not self._answered or tries == _UNREACHED:
                    raise
                say(f"{error}; looking again")
                time.sleep(_POLL.value)
            else:
                self._answered = True
                return found
        raise AssertionError("unreachable")

    def checkout(self) -> workers.Checkout:
        """Returns what every host gets."""
        address = _REPOSITORY.value or self.repository.address()
        if not address:
            raise calls.CallError(
                "launch: the checkout has no remote `origin`; give --repository=https://..."
            )
        return workers.Checkout(address, self.repository.commit(_COMMIT.value), t5x=_T5X.value)

    def check_before(self) -> None:
        """Names what is wrong before anything is created.

        Raises:
            CallError: anything is.
        """
        region = self.slice.wanted.region
        if self.called.dry_run:
            list(before.credentials(self.called))
            self.slice.types()
            list(before.bucket(self.called, self.folder, region))
            self.called.ask("git", "ls-remote", "--heads", self.checkout().repository)
            self.slice.leftovers()
            return
        unknown = list(before.credentials(self.called))
        asking = [
            lambda: before.place(self.slice),
            lambda: before.bucket(self.called, self.folder, region),
            lambda: before.leftover(self.slice),
        ]
        checks = [
            lambda: before.commit(self.repository, self.checkout(), _COMMIT.value == "HEAD"),
            *([lambda: unknown] if unknown else asking),
        ]
        faults = report(checks, _IGNORE.value)
        if faults:
            raise calls.CallError(f"launch: {faults} faults, named above; nothing was created")

    def create(self) -> None:
        """Makes the slice where it is not there, and waits until it is ready."""
        until = time.monotonic() + _READY.value * 3600
        shown = ""
        while True:
            state, words = (State.ABSENT, "") if self.called.dry_run else self.look()
            if words != shown:
                say(f"{self.slice.wanted.name}: {words}")
                shown = words
            if state is State.READY:
                return
            if state is State.FAILED:
                raise calls.CallError(f"launch: {words}. What to do: tpu_vm.py delete, then again")
            if state is State.ABSENT:
                self.slice.create()
                if self.called.dry_run:
                    return
            elif state is State.PREEMPTED:
                if not _RECREATE.value:
                    raise calls.CallError(
                        f"launch: {words}. What to do: tpu_vm.py delete, then again"
                    )
                say(f"{words}; asking anew (its checkpoints are in {self.folder})")
                self.slice.recreate()
            if time.monotonic() > until:
                raise calls.CallError(
                    f"launch: {self.slice.wanted.name} is not ready after {_READY.value} hours ({words}). What to do: another --zone, or "
                    "a longer --ready_hours; the request stays in the queue until tpu_vm.py delete"
                )
            time.sleep(_POLL.value)

    def on_all(
        self, script: str, names: Sequence[str] | None = None, timeout: float | None = None
    ) -> list[workers.Reply]:
        """Runs a shell script on hosts, all by default, at the same time."""
        return workers.on_all(
            self.called, self.slice, script, names or self.slice.workers(), timeout
        )

    def bring_up(self) -> None:
        """Installs and starts the run on all hosts on which it neither runs nor is done."""
        # The first call makes SSH's key where there is none: not several of them at once.
        self.on_all("true", self.slice.workers()[:1])
        statuses = {} if self.called.dry_run else self.statuses()
        up = {
            name
            for name, status in statuses.items()
            if status["state"] in ("running", "waiting")
            or (status["state"] == "done" and status["command"] == self.command)
        }
        missing = [name for name in self.slice.workers() if name not in up]
        if not missing:
            say("it is there on all hosts; watching")
            return
        checkout = self.checkout()
        say(f"installing {checkout.commit[:12]} on {len(missing)} of {self.hosts} hosts")
        replies = self.on_all(checkout.install(), missing)
        _refuse([reply.fault for reply in replies if reply.answer.code])
        if not up:
            self.examine()
        command = [
            "--detach", f"--max_crashes={_MAX_CRASHES.value}", f"--first_wait_seconds={_FIRST_WAIT.value}", "--", *self.command,
        ]  # fmt: skip
        replies = self.supervise(*command, names=missing)
        _refuse([reply.fault for reply in replies if reply.answer.code])
        for reply in replies:
            say(f"worker {reply.worker}: {reply.answer.out.strip()}")

    def examine(self) -> None:
        """Lets the doctor look at every host; they must agree.

        Raises:
            CallError: a host is at fault, or differs from the others.
        """
        grace = [f"--grace_seconds={_SPOT_GRACE_SECONDS}"] if _SPOT.value else []
        doctor = [
            "python", "scripts/launch/doctor.py", f"--num_hosts={self.hosts}",
            f"--num_devices={self.slice.wanted.slice.num_devices}", *grace,
            *([f"--ignore={','.join(_IGNORE.value)}"] if _IGNORE.value else []), "--", *self.command,
        ]  # fmt: skip
        replies = self.on_all(self.checkout().inside(doctor, self._variables()))
        if self.called.dry_run:
            return
        last = {}
        faults = []
        for reply in replies:
            lines = (reply.answer.out + reply.answer.error).splitlines()
            told = [line for line in lines if line.startswith("doctor: ")]
            for line in told:
                say(f"worker {reply.worker}: {line}")
            last[reply.worker] = next((line for line in told if "configuration" in line), "")
            if reply.answer.code:
                faults.append(f"launch: worker {reply.worker}: see above" if told else reply.fault)
        _refuse(faults)
        if len(set(last.values())) > 1:
            raise calls.CallError(
                f"launch: the hosts differ in commit or configuration: {last}. What to do: the same --commit, files and --env on all"
            )

    def _variables(self) -> dict[str, str]:
        wrong = [text for text in _ENV.value if "=" not in text]
        if wrong:
            raise calls.CallError(f"launch: --env={wrong[0]}: give NAME=VALUE")
        return dict(text.split("=", 1) for text in _ENV.value)

    def supervise(self, *arguments: str, names: Sequence[str] | None = None) -> list[workers.Reply]:
        """Calls the supervisor of hosts, of all by default."""
        command = ["python", "scripts/launch/supervise.py", f"--name={_NAME.value}", *arguments]
        script = self.checkout().inside(command, self._variables())
        return self.on_all(script, names, timeout=_CALL_SECONDS)

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Returns how the run stands on every host; `state` is `unreached` for one that does not answer."""
        found = {}
        for reply in self.supervise("--status"):
            try:
                found[reply.worker] = json.loads(reply.answer.out.splitlines()[-1])
            except (IndexError, json.JSONDecodeError):
                found[reply.worker] = {
                    "state": "unreached",
                    "reason": reply.fault.removeprefix(f"launch: worker {reply.worker}: "),
                }
        return found

    def run(self) -> int:
        """Brings the run to its end; returns the exit status."""
        self.check_before_unless_there()
        up, tries, unreached, shown = False, 0, 0, ""
        while True:
            if not up:
                self.create()
                try:
                    self.bring_up()
                except calls.CallError as error:
                    tries += 1
                    if tries >= _UNREACHED or not self._may_pass(error):
                        raise
                    say(f"{error}; trying again")
                    time.sleep(_POLL.value)
                    continue
                up, tries = True, 0
                if self.called.dry_run:
                    return 0
            time.sleep(_POLL.value)
            state, words = self.look()
            if state is not State.READY:
                say(words)
                up, unreached = False, 0
                continue
            statuses = self.statuses()
            lines = [f"worker {name}: {_words(status)}" for name, status in statuses.items()]
            if "\n".join(lines) != shown:
                shown = "\n".join(lines)
                for line in lines:
                    say(line)
            states = {
                status["state"]: line for status, line in zip(statuses.values(), lines, strict=True)
            }
            if "done" in states:
                return self.finish(statuses)
            if "failed" in states:
                self.supervise("--stop")
                raise calls.CallError(f"launch: {states['failed']}")
            unreached = unreached + 1 if "unreached" in states else 0
            if unreached >= _UNREACHED:
                raise calls.CallError(
                    f"launch: {states['unreached']}, {_UNREACHED} times in a row, and the slice is said to be ready. What to do: "
                    f"tpu_vm.py delete, then run again: it continues from the last checkpoint in {self.folder}"
                )
            if "stopped" in states:
                say("stopped; the same command continues it")
                return os.EX_TEMPFAIL
            if states.keys() & {"lost", "terminated", "absent"}:
                say(
                    "a host ended without being done (a reboot for maintenance?): starting it again"
                )
                up = False

    def _may_pass(self, error: calls.CallError) -> bool:
        """Returns whether a start failed for a reason that passes: a machine that just boots, a slice that was preempted."""
        return "port 22" in str(error) or self.look()[0] is not State.READY

    def check_before_unless_there(self) -> None:
        """Checks what a new slice needs, unless it is there already."""
        if self.called.dry_run or self.look()[0] in (State.ABSENT, State.FAILED):
            self.check_before()
        else:
            say(f"{_NAME.value} is there and is used")

    def finish(self, statuses: dict[str, dict[str, Any]]) -> int:
        """Waits for the hosts that are not done a moment longer, and stops them; the run itself is done."""
        for _ in range(_UNREACHED):
            if {status["state"] for status in statuses.values()} == {"done"}:
                break
            time.sleep(_POLL.value)
            statuses = self.statuses()
        else:
            self.supervise("--stop")
        say(f"done: {self.folder}. The slice is still there and costs money: tpu_vm.py delete")
        return 0

    def status(self) -> int:
        """Says how the run stands on every host."""
        state, words = (State.READY, "") if self.called.dry_run else self.look()
        say(f"{_NAME.value}: {words}")
        if state is State.READY:
            for name, status in self.statuses().items():
                say(f"worker {name}: {_words(status)}")
        return 0

    def logs(self) -> int:
        """Fetches the logs of all hosts."""
        replies = self.supervise(f"--tail={_LINES.value}")
        for reply in replies:
            if _OUTPUT.value:
                path = pathlib.Path(_OUTPUT.value) / f"worker_{reply.worker}.log"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(reply.answer.out, encoding="utf-8")
                say(f"worker {reply.worker}: {path}, {len(reply.answer.out.splitlines())} lines")
            else:
                print(
                    "".join(f"[{reply.worker}] {line}\n" for line in reply.answer.out.splitlines()),
                    end="",
                )
        _refuse([reply.fault for reply in replies if reply.answer.code])
        return 0

    def stop(self) -> int:
        """Stops the run on all hosts."""
        replies = self.supervise("--stop")
        for reply in replies:
            say(f"worker {reply.worker}: {(reply.answer.out.strip() or reply.fault)}")
        return 0

    def delete(self) -> int:
        """Deletes the slice, after saying what."""
        state, words = (State.READY, "") if self.called.dry_run else self.look()
        if state is State.ABSENT:
            say(f"{_NAME.value}: {words}: nothing to delete")
            return 0
        say(
            f"deleting {_NAME.value} ({_TYPE.value}, {_ZONE.value}, {words}), its machines and their disks; {self.folder or 'buckets'} stays"
        )
        self.slice.delete()
        return 0

    def doctor(self) -> int:
        """Names what is wrong, here and on hosts that are there."""
        self.check_before()
        if not self.called.dry_run and self.look()[0] is State.READY:
            self.on_all(self.checkout().install())
            self.examine()
        say("nothing is wrong")
        return 0


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        for fault in faults[1:]:
            print(fault, file=sys.stderr)
        raise calls.CallError(faults[0])


def _words(status: dict[str, Any]) -> str:
    step = "" if status.get("step") is None else f", checkpoint of step {status['step']}"
    return f"{status['state']}{step}: {status['reason']}"


def main(arguments: Sequence[str]) -> int:
    action, run = (arguments[1:2] or [""])[0], list(arguments[2:])
    if action not in _ACTIONS:
        raise app.UsageError(f"tpu_vm: {action!r} is no action; one of {', '.join(_ACTIONS)}")
    if action in ("doctor", "run") and not run:
        raise app.UsageError("tpu_vm: give the flags of the run after `--`")
    if _DRY_RUN.value:
        print(
            "# a dry run: nothing is called; the slice is taken to be missing, every call to succeed"
        )
    launch = Launch(run)
    actions: dict[str, Callable[[], int | None]] = {
        name: getattr(launch, name) for name in _ACTIONS
    }
    if action == "create":
        launch.check_before_unless_there()
    return actions[action]() or 0


def _one_line(main: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    def wrapped(arguments: Sequence[str]) -> int:
        try:
            return main(arguments)
        except (calls.CallError, ValueError) as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(
                "launch: no longer watching; what was started goes on. The same command watches again",
                file=sys.stderr,
            )
            return os.EX_TEMPFAIL

    return wrapped


if __name__ == "__main__":
    app.run(_one_line(main))
