"""The hosts of a run agree before it begins: one commit, one configuration."""

import json
import socket

import jax
import numpy as np
from jax.experimental import multihost_utils

from cotdistill_jax.train import run_folder


def check(config: str) -> None:
    """Checks that all processes have the same code and configuration; every process calls it.

    Args:
      config: what `gin.config_str()` returns.

    Raises:
      ValueError: they differ; the message names two hosts and the first line in which they do.
    """
    if jax.process_count() == 1:
        return
    code = run_folder.git_state()
    own = json.dumps(
        [
            socket.gethostname(),
            f"commit {code['commit']}",
            f"changed files: {code['dirty']}",
            *config.splitlines(),
        ]
    )
    found = [json.loads(text) for text in _gather(own)]
    for process, (host, *lines) in enumerate(found):
        first_host, *expected = found[0]
        if lines == expected:
            continue
        length = max(len(lines), len(expected))
        first, here = next(
            (a, b)
            for a, b in zip(
                expected + [""] * (length - len(expected)),
                lines + [""] * (length - len(lines)),
                strict=True,
            )
            if a != b
        )
        raise ValueError(
            f"train: the hosts of this run differ: process 0 ({first_host}) has {first!r}, process {process} ({host}) has {here!r}; "
            "give all of them the same commit, gin files and bindings"
        )


def _gather(text: str) -> list[str]:
    """Returns the texts of all processes, in their order."""
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray([own.size]))[:, 0]
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: own.size] = own
    gathered = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(gathered, sizes, strict=True)]
