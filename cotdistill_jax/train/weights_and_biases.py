"""Metrics to Weights & Biases, where it is installed and asked for by its own environment variable WANDB_PROJECT.

    WANDB_PROJECT=cotdistill python -m cotdistill_jax.train ...        (WANDB_MODE=offline keeps everything on this machine)

A run folder is one W&B run: its id is kept in `wandb_run_id`, so that a continued run goes on there. W&B takes no value for a step
before its newest one, so the steps that a killed run repeats are kept as they were first.
"""

import os
import uuid
from typing import Any

from cotdistill_jax import files

PROJECT_VARIABLE = "WANDB_PROJECT"
RUN_ID_FILE = "wandb_run_id"


def start(folder: files.Path) -> Any | None:
    """Returns the W&B run of a run folder, to be given `log(scalars, step=...)` and `finish()`; None if not asked for.

    Args:
      folder: the run folder.

    Raises:
      ModuleNotFoundError: asked for, but wandb is not installed; the message says how to.
    """
    project = os.environ.get(PROJECT_VARIABLE)
    if not project:
        return None
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"train: {PROJECT_VARIABLE}={project} asks for Weights & Biases, which is not installed; "
            f'run `pip install ".[wandb]"`, or unset {PROJECT_VARIABLE}'
        ) from error
    id_file = folder / RUN_ID_FILE
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return wandb.init(
        project=project,
        id=id_file.read_text(encoding="utf-8").strip(),
        name=folder.name,
        dir=None if files.is_remote(folder) else str(folder),
        resume="allow",
    )
