"""What runs on the machines of a slice: the checkout of one commit, its environment, the supervised training command."""

import concurrent.futures
import dataclasses
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import calls

_AT_ONCE = 16  # calls of gcloud, which take 100 MB each


@dataclasses.dataclass(frozen=True)
class Checkout:
    """The code that every machine gets.

    Attributes:
        repository: its address, which the machines can clone without a key.
        commit: full hash, on a branch there.
        folder: where it lies on a machine, `~` being its home.
        extra: of setup.py: `tpu` or `cuda`.
        t5x: whether T5X is installed, too.
    """

    repository: str
    commit: str
    folder: str = "~/cotdistill_jax"
    extra: str = "tpu"
    t5x: bool = False

    def install(self) -> str:
        """Returns the shell script that makes it so; run again, it does only what is missing."""
        return f"""set -euo pipefail
folder={self._home}
[ -d "$folder/.git" ] || git clone --quiet --no-checkout {shlex.quote(self.repository)} "$folder"
cd "$folder"
git cat-file -e {self.commit}^{{commit}} 2> /dev/null || git fetch --quiet {shlex.quote(self.repository)} '+refs/heads/*:refs/remotes/origin/*'
if [ -e setup.py ] && ! git diff --quiet HEAD; then
  echo "error: the checkout $folder on $(hostname) was changed by hand: git -C $folder stash" >&2
  exit 1
fi
git checkout --quiet --detach {self.commit}
source scripts/launch/python.sh
{self._enter}
{"bash scripts/install_t5x.sh" if self.t5x else ":"}
"""

    @property
    def _home(self) -> str:
        return (
            '"$HOME"/' + shlex.quote(self.folder[2:])
            if self.folder.startswith("~/")
            else shlex.quote(self.folder)
        )

    @property
    def _enter(self) -> str:
        return f"set +u; source scripts/environment.sh {self.extra} > /dev/null; set -u"

    def inside(self, command: Sequence[str], variables: Mapping[str, str]) -> str:
        """Returns the shell script that runs a command in the checkout and its environment."""
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()
        )
        return f"""set -euo pipefail
cd {self._home}
{self._enter}
{exports}exec {shlex.join(command)}
"""


def train_command(flags: Sequence[str], num_hosts: int, t5x: bool) -> list[str]:
    """Returns the command that every process runs: ours, or T5X's, whose flag for several processes is named after GPUs."""
    module, several = (
        ("t5x.train", "--multiprocess_gpu") if t5x else ("cotdistill_jax.train", "--multihost")
    )
    return ["python", "-m", module, *flags, *([several] if num_hosts > 1 else [])]


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a machine answered.

    Attributes:
        worker: its name or number.
        answer: exit status and output of the call.
        call: what was called.
    """

    worker: str
    answer: calls.Answer
    call: Sequence[str]

    @property
    def fault(self) -> str:
        """One line on why the call failed."""
        return calls.explain(self.call, self.answer, f"worker {self.worker}: ")


def on_all(
    called: calls.Calls, slice_: Any, script: str, workers: Sequence[str], timeout: float | None
) -> list[Reply]:
    """Runs a shell script on machines at the same time.

    Args:
        called: runs gcloud.
        slice_: a `CloudTpu` or `ComputeEngine`.
        script: for bash.
        workers: which machines.
        timeout: seconds; None: any.
    """

    def one(worker: str) -> Reply:
        call = slice_.ssh(worker, f"bash -c {shlex.quote(script)}")
        return Reply(worker, called.ask(*call, timeout=timeout), call)

    if called.dry_run:
        if len(workers) > 1:
            print(f"# at the same time on each of the workers {', '.join(workers)}:")
        return [one(worker) for worker in workers[:1]]
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(one, workers))


@dataclasses.dataclass(frozen=True)
class Repository:
    """The checkout that a launch starts from.

    Attributes:
        folder: of the checkout.
    """

    folder: str

    def _git(self, *arguments: str) -> str | None:
        done = subprocess.run(
            ["git", "-C", self.folder, *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def commit(self, name: str = "HEAD") -> str:
        """Returns the full hash of a commit.

        Raises:
            CallError: there is none of that name.
        """
        found = self._git("rev-parse", "--verify", f"{name}^{{commit}}")
        if not found:
            raise calls.CallError(f"launch: {self.folder} has no commit {name}")
        return found

    def address(self) -> str | None:
        """Returns the address of `origin`; None: there is none."""
        return self._git("remote", "get-url", "origin")

    def changed(self) -> list[str]:
        """Returns the files that differ from HEAD."""
        return (self._git("status", "--porcelain", "--untracked-files=no") or "").splitlines()

    def pushed(self, commit: str, address: str) -> bool | None:
        """Returns whether a branch at an address holds a commit; None: the address does not answer."""
        listed = self._git("ls-remote", "--heads", address)
        if listed is None:
            return None
        heads = {line.split()[0] for line in listed.splitlines()}
        if commit in heads:
            return True
        known = [head for head in heads if self._git("cat-file", "-e", head) is not None]
        return any(
            self._git("merge-base", "--is-ancestor", commit, head) is not None for head in known
        )
