r"""Runs a training command again after a preemption, a lost host or a crash, until the run says that it is done.

    python scripts/launch/supervise.py --name=xl --detach -- python -m cotdistill_jax.train --gin_file=... --multihost
    python scripts/launch/supervise.py --name=xl --status      # one line of JSON
    python scripts/launch/supervise.py --name=xl --stop        # a checkpoint, then the end

One supervisor on every host of a slice, or one around `srun`. Started twice with one name, the second says so and ends.

| the command ends with | it is |
|---|---|
| 0 | done: never run again |
| 75 (EX_TEMPFAIL: `train: stopped`), with a new checkpoint | run again at once, unless this supervisor was told to stop |
| anything else, a signal too | a crash: run again after a wait that doubles, --first_wait_seconds to --longest_wait_seconds |

A crash counts until there is a new checkpoint in MODEL_DIR; --max_crashes of them without one, and it gives up: a crash that comes
back at the same step is not repeated for ever. T5X ends with 0 or crashes; SIGTERM ends it with signal 15.

The command gets SIGTERM where the supervisor gets SIGTERM (the machine goes down, a job's time is up) or SIGINT (--stop, Ctrl-C: for
good, without --resubmit).

Files, in `~/.cotdistill/NAME`: `log.txt` (what the command prints), `status.json`, `lock`.

Exit status: 0 done, 75 stopped, else that of the last crash.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from absl import app, flags

STOPPED = os.EX_TEMPFAIL
_CHECKPOINT = re.compile(r"checkpoint_(\d+)/?$")
_MODEL_DIR = re.compile(r"""--gin\.MODEL_DIR=["']*(?P<folder>[^"']+)["']*$""")
_LAST_LINES = 3

_NAME = flags.DEFINE_string("name", None, "Of the run on this host.", required=True)
_FOLDER = flags.DEFINE_string("state_dir", "~/.cotdistill", "Folder of all runs on this host.")
_DETACH = flags.DEFINE_bool("detach", False, "Go on in the background, without this terminal.")
_STATUS = flags.DEFINE_bool("status", False, "Only print how it stands, as one line of JSON.")
_STOP = flags.DEFINE_bool("stop", False, "Only stop it, and wait until it has ended.")
_TAIL = flags.DEFINE_integer("tail", None, "Only print so many lines of its log.")
_MAX_CRASHES = flags.DEFINE_integer(
    "max_crashes", 5, "Crashes without a new checkpoint between them until it gives up."
)
_FIRST_WAIT = flags.DEFINE_float("first_wait_seconds", 5, "Before it runs again after a crash.")
_LONGEST_WAIT = flags.DEFINE_float("longest_wait_seconds", 300, "The wait doubles up to this.")
_ON_STOP = flags.DEFINE_string(
    "on_stop", None, "Command that passes SIGTERM on; default: the command gets it."
)
_RESUBMIT = flags.DEFINE_string(
    "resubmit", None, "Command after SIGTERM, not after SIGINT, such as scontrol requeue."
)


@dataclasses.dataclass
class Status:
    """How a run stands on this host.

    Attributes:
        state: `running`, `waiting` (to run again), `done`, `failed`, `stopped` (by --stop or Ctrl-C), `terminated` (by SIGTERM, as when
            the machine goes down); what `read` adds: `absent`, and `lost` for one that ended without a word.
        reason: of the last end, in words.
        starts: how often the command was started.
        crashes: crashes since the last new checkpoint.
        step: of the newest checkpoint; None where there is none, or its folder can't be read from here.
        pid: of the supervisor.
        host: this one's name.
        since: when this state began, UTC.
        command: the command.
    """

    state: str
    reason: str = ""
    starts: int = 0
    crashes: int = 0
    step: int | None = None
    pid: int = 0
    host: str = ""
    since: str = ""
    command: Sequence[str] = ()


def newest_step(command: Sequence[str]) -> int | None:
    """Returns the step of the newest checkpoint in the MODEL_DIR of a command; a bucket is read through the project's files."""
    found = next((match for text in command if (match := _MODEL_DIR.search(text))), None)
    if found is None:
        return None
    folder: Any = pathlib.Path(found["folder"]).expanduser()
    try:
        if "://" in found["folder"]:
            from cotdistill_jax import files

            folder = files.as_path(found["folder"])
        names = [path.name for path in folder.iterdir()]
    except Exception as error:  # noqa: BLE001  (a folder that is not there yet, a bucket out of reach: no step is known)
        if not isinstance(error, FileNotFoundError):
            say(f"the checkpoints in {found['folder']} can't be listed: {error}")
        return None
    return max(
        (int(match[1]) for name in names if (match := _CHECKPOINT.match(name))), default=None
    )


def say(text: str) -> None:
    """Prints a line with the time, for a log."""
    print(f"supervise: {_now()} {text}", flush=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe(code: int) -> str:
    """Returns how a process ended, from its exit status, negative for a signal."""
    if code == STOPPED:
        return f"exit status {code}: stopped by a signal, its checkpoint is saved"
    if code == -signal.SIGKILL:
        return "killed by SIGKILL (out of memory? `sudo dmesg | grep -i oom` tells)"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


class Supervisor:
    """One run of a command under supervision; `folder` is its own."""

    def __init__(self, folder: pathlib.Path, command: Sequence[str]) -> None:
        """Starts nothing yet."""
        self._folder = folder
        self._command = list(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._told = threading.Event()
        self._for_good = False
        self._last: list[str] = []
        self.status = Status("waiting", pid=os.getpid(), host=socket.gethostname(), command=command)

    def run(self) -> int:
        """Runs the command until it is done, given up or told to stop; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        wait = _FIRST_WAIT.value
        while not self._told.is_set():
            before = newest_step(self._command)
            self._set("running", f"start {self.status.starts + 1}", step=before)
            self.status.starts += 1
            code = self._once()
            self.status.step = newest_step(self._command)
            progressed = self.status.step != before
            if progressed:
                self.status.crashes, wait = 0, _FIRST_WAIT.value
            if code == 0:
                self._set("done", f"after {self.status.starts} starts")
                return 0
            if self._told.is_set():
                break
            if code == STOPPED and progressed:
                say(f"{describe(code)}; running it again")
                continue
            self.status.crashes += 1
            why = f"{describe(code)}; {self._last_words()}"
            if self.status.crashes >= _MAX_CRASHES.value:
                self._set(
                    "failed",
                    f"{self.status.crashes} crashes since the last new checkpoint (step {self.status.step}), so it is not run again. "
                    f"The last one: {why}. See {self._folder / 'log.txt'}, mend the cause, start it again",
                )
                return code if code > 0 else 128 - code
            self._set("waiting", f"crash {self.status.crashes} of {_MAX_CRASHES.value}: {why}")
            say(f"running it again in {wait:.0f} s")
            self._told.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT.value)
        if self._for_good:
            self._set("stopped", "told to stop; start it again to continue")
            return STOPPED
        self._set("terminated", "by SIGTERM; start it again to continue")
        if _RESUBMIT.value:
            say(f"$ {_RESUBMIT.value}")
            subprocess.run(_RESUBMIT.value, shell=True, check=False)
        return STOPPED

    def _once(self) -> int:
        """Runs the command once, its output going to this process's; returns its exit status."""
        say(f"$ {shlex.join(self._command)}")
        try:
            self._child = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            self._last = [f"{self._command[0]}: {error.strerror}"]
            return 127
        if self._told.is_set():  # a signal that came while it was started
            self._pass_on()
        assert self._child.stdout is not None
        self._last = _copy(self._child.stdout)
        return self._child.wait()

    def _last_words(self) -> str:
        return "its last lines: " + " | ".join(self._last) if self._last else "it said nothing"

    def _stop(self, number: int, frame: object) -> None:
        first = not self._told.is_set()
        self._told.set()
        self._for_good |= number == signal.SIGINT
        if first:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._child is None or self._child.poll() is not None:
            return
        if _ON_STOP.value:
            say(f"$ {_ON_STOP.value}")
            subprocess.Popen(_ON_STOP.value, shell=True)
        else:
            self._child.send_signal(signal.SIGTERM)

    def _set(self, state: str, reason: str, **changes: Any) -> None:
        self.status = dataclasses.replace(
            self.status, state=state, reason=reason, since=_now(), **changes
        )
        say(f"{state}: {reason}")
        partial = self._folder / "status.part"
        partial.write_text(json.dumps(dataclasses.asdict(self.status)), encoding="utf-8")
        partial.replace(self._folder / "status.json")


def _copy(stream: IO[bytes]) -> list[str]:
    """Copies a process's output until it ends, as it comes; returns its last lines, without those of a progress bar."""
    kept = b""
    while piece := stream.read1(1 << 16):  # type: ignore[attr-defined]
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        kept = (kept + piece)[-(1 << 14) :]
    lines = kept.decode("utf-8", errors="replace").split("\n")
    lines = [line.rsplit("\r", 1)[-1].strip() for line in lines]
    return [line[:300] for line in lines if line][-_LAST_LINES:]


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[bool]:
    """Holds the lock of a run's folder; yields whether it was free. The kernel takes it back when its holder dies."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def read(folder: pathlib.Path) -> Status:
    """Returns how the run of a folder stands."""
    if not (folder / "status.json").exists():
        return Status("absent", host=socket.gethostname())
    status = Status(**json.loads((folder / "status.json").read_text(encoding="utf-8")))
    with _lock(folder) as free:
        if free and status.state in ("running", "waiting"):
            status.state, status.reason = (
                "lost",
                f"it ended without a word (a reboot, SIGKILL) while {status.state}",
            )
    return status


def stop(folder: pathlib.Path) -> None:
    """Stops the run of a folder and waits for its end."""
    status = read(folder)
    if status.state not in ("running", "waiting"):
        print(f"supervise: nothing to stop: {status.state}")
        return
    os.kill(status.pid, signal.SIGINT)
    while read(folder).state in ("running", "waiting"):
        time.sleep(0.2)
    print(f"supervise: {read(folder).state}: {read(folder).reason}")


def start(folder: pathlib.Path, command: Sequence[str]) -> int:
    """Runs a command under supervision in this process; returns the exit status."""
    for _ in range(20):  # a reader of the status holds the lock for a moment
        with _lock(folder) as free:
            if free:
                return Supervisor(folder, command).run()
        time.sleep(0.1)
    print(f"supervise: already running here: process {read(folder).pid}, {read(folder).reason}")
    return 0


def detach(folder: pathlib.Path, arguments: Sequence[str]) -> int:
    """Starts this script once more, in a session of its own; returns, when it has begun, 0, and 1 where it did not."""
    before = read(folder)
    if before.state in ("running", "waiting"):
        print(f"supervise: already running here: process {before.pid}, {before.reason}")
        return 0
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while process.poll() is None and read(folder).pid != process.pid:
        time.sleep(0.05)
    if read(folder).pid != process.pid:
        print(f"supervise: it did not start; see {folder / 'log.txt'}", file=sys.stderr)
        return 1
    print(f"supervise: started as process {process.pid}; log: {folder / 'log.txt'}")
    return 0


def _own_flags() -> list[str]:
    return sys.argv[1 : sys.argv.index("--")]


def main(arguments: Sequence[str]) -> int:
    folder = pathlib.Path(_FOLDER.value).expanduser() / _NAME.value
    folder.mkdir(parents=True, exist_ok=True)
    command = list(arguments[1:])
    if _STATUS.value:
        print(json.dumps(dataclasses.asdict(read(folder))))
    elif _STOP.value:
        stop(folder)
    elif _TAIL.value is not None:
        if (folder / "log.txt").exists():
            subprocess.run(["tail", f"--lines={_TAIL.value}", str(folder / "log.txt")], check=True)
    elif not command or "--" not in sys.argv:
        print("supervise: give the command after `--`", file=sys.stderr)
        return 2
    elif _DETACH.value:
        return detach(
            folder, [text for text in _own_flags() if text != "--detach"] + ["--", *command]
        )
    else:
        return start(folder, command)
    return 0


if __name__ == "__main__":
    app.run(main)
