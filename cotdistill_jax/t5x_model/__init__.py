"""The project under T5X: what the gin files in `gin/t5x/` bind, and the only room that imports t5x.

| file | name | role under T5X |
|---|---|---|
| `model.py` | `DistillEncDecModel` | the model: our network, losses, feature converter and greedy decoding |
| `training.py` | `DistillTrainer` | the trainer: weights of target tokens over the whole batch, whatever the number of microbatches |
| `training.py` | `Partitioner` | the mesh and the axis rules of `partitioning.py`, checked against model and batch |
| `training.py` | `Optimizer` | any chain of Optax transformations, its state sharded like the parameters |
| `run.py` | `train_iterator`, `evaluation_dataset` | the input of training and of SeqIO's evaluator |
| `run.py` | `initial_checkpoint` | the weights a new run starts from |
| `run.py` | `checkpointer` | which checkpoints stay |
| `run.py` | `check_settings` | says or refuses what T5X does not follow |
| `training.py` | `StopOnNonFiniteLoss` | ends a run whose loss is NaN or infinite |
| `run.py` | `describe_run`, `subfolder` | `model.json` and the vocabulary beside the checkpoints; output folders |

Both runners take the same leaf, draw the same parameters and dropout masks from its seed, read the same batches and
weight the same tokens, so that their losses agree step by step and either continues the other's run. (With dropout,
several microbatches draw other masks than the embedded runner's.)
"""

try:
    import t5x as _t5x  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"t5x_model: T5X is not installed ({error}). It is not on PyPI: run `bash scripts/install_t5x.sh`, which "
        "installs scripts/requirements-t5x.txt. The embedded runner, `python -m cotdistill_jax.train`, needs none of it.",
        name=error.name,
    ) from error

from cotdistill_jax.t5x_model.model import DistillEncDecModel
from cotdistill_jax.t5x_model.run import (
    absolute,
    check_settings,
    checkpointer,
    describe_run,
    evaluation_dataset,
    initial_checkpoint,
    subfolder,
    train_iterator,
)
from cotdistill_jax.t5x_model.training import (
    DistillTrainer,
    Optimizer,
    Partitioner,
    StopOnNonFiniteLoss,
)

__all__ = [
    "DistillEncDecModel",
    "DistillTrainer",
    "Optimizer",
    "Partitioner",
    "StopOnNonFiniteLoss",
    "absolute",
    "check_settings",
    "checkpointer",
    "describe_run",
    "evaluation_dataset",
    "initial_checkpoint",
    "subfolder",
    "train_iterator",
]
