"""What a leaf says about a run's programs, read from gin without its data: for plans and for compiling ahead of time."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import optax

from cotdistill_jax import network
from cotdistill_jax.losses import LossFn
from cotdistill_jax.train import gin_config, optimizers, planning


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A leaf's programs.

    Attributes:
      config: dimensions of the network.
      loss_fn: its loss.
      optimizer: its optimizer.
      mixture_or_task_name: what it trains on.
      batch: shapes of an optimizer step's batch.
      batch_size: rows of it.
      num_microbatches: parts of it.
      num_loss_chunks: as for `step.make_train_step`.
      weigh_alike: as for `step.make_train_step`.
      skip_nonfinite: as for `step.make_train_step`.
      seed: of the run.
      mesh_shape: MESH_SHAPE; None: to be chosen.
      eval_lengths: positions of `inputs` and `targets` when evaluated.
      eval_batch_size: rows decoded together.
    """

    config: network.T5Config
    loss_fn: LossFn
    optimizer: optax.GradientTransformation
    mixture_or_task_name: str
    batch: Mapping[str, jax.ShapeDtypeStruct]
    batch_size: int
    num_microbatches: int
    num_loss_chunks: int
    weigh_alike: bool
    skip_nonfinite: bool
    seed: int
    mesh_shape: tuple[int, ...] | None
    eval_lengths: Mapping[str, int]
    eval_batch_size: int


def read(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> Recipe:
    """Returns the recipe of a leaf and its overlays.

    Args:
      gin_files: leaf and overlays, without `gin/runs/finetune.gin`.
      bindings: `NAME = VALUE`, after all files.
    """
    gin_config.parse([*gin_files, "gin/runs/programs.gin"], [*bindings, "MODEL_DIR = 'none'"])

    def macro(name: str) -> Any:
        return gin.query_parameter(f"{name}/macro.value")

    loss_fn = macro("LOSS_FN").scoped_configurable_fn
    batch = planning.abstract_batch(
        macro("TASK_FEATURE_LENGTHS"), macro("BATCH_SIZE"), macro("PACK")
    )
    if loss_fn.__name__ == "unlikelihood":
        batch["decoder_targets_negative"] = batch["decoder_target_tokens"]
    return Recipe(
        config=gin.get_configurable(network.T5Config)(),
        loss_fn=loss_fn,
        optimizer=gin.get_configurable(optimizers.chain)(),
        mixture_or_task_name=macro("MIXTURE_OR_TASK_NAME"),
        batch=batch,
        batch_size=macro("BATCH_SIZE"),
        num_microbatches=macro("NUM_MICROBATCHES"),
        num_loss_chunks=macro("NUM_LOSS_CHUNKS"),
        weigh_alike=macro("WEIGH_MICROBATCHES_ALIKE"),
        skip_nonfinite=macro("ON_NONFINITE") == "skip",
        seed=macro("RANDOM_SEED"),
        mesh_shape=macro("MESH_SHAPE"),
        eval_lengths=macro("EVAL_FEATURE_LENGTHS"),
        eval_batch_size=macro("EVAL_BATCH_SIZE"),
    )
