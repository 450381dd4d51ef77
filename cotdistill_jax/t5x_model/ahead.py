"""T5X's own training step, through its partitioner and trainer, lowered for devices that need not be there."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from t5x import partitioning as t5x_partitioning
from t5x import utils

from cotdistill_jax import losses, network
from cotdistill_jax.t5x_model import training
from cotdistill_jax.t5x_model.model import DistillEncDecModel


class _OnMesh(training.Partitioner):
    """`training.Partitioner` on a mesh that is given, of devices that JAX does not have."""

    def __init__(self, mesh: Mesh) -> None:
        self._chosen_mesh = mesh
        t5x_partitioning.PjitPartitioner.__init__(
            self, num_partitions=1, logical_axis_rules=training.logical_axis_rules()
        )


def lower_step(
    mesh: Mesh,
    config: network.T5Config,
    mixture_or_task_name: str,
    optimizer: Any,
    loss_fn: losses.LossFn,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    num_microbatches: int,
    num_loss_chunks: int,
) -> Any:
    """Returns the lowered step of `t5x.train` with this project's model, trainer and rules.

    Args:
        mesh: Such as one of a topology.
        config: Dimensions of the network; T5X's layers are not scanned.
        mixture_or_task_name: Its vocabulary is the model's.
        optimizer: An Optax transformation.
        loss_fn: The loss.
        batch: Shapes of a step's batch.
        num_microbatches: Parts of it.
        num_loss_chunks: As for `DistillEncDecModel`.
    """
    definition = training.Optimizer([optimizer])
    model = DistillEncDecModel(
        config, mixture_or_task_name, definition, loss_fn, num_loss_chunks, init_seed=0
    )
    partitioner = _OnMesh(mesh)
    start = utils.TrainStateInitializer(
        optimizer_def=definition,
        init_fn=model.get_initial_variables,
        input_shapes={name: leaf.shape for name, leaf in batch.items()},
        input_types={name: leaf.dtype for name, leaf in batch.items()},
        partitioner=partitioner,
    )
    trainer = training.DistillTrainer(
        model,
        start.global_train_state_shape,
        partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=start.train_state_axes,
        rng=jax.random.PRNGKey(0),
        learning_rate_fn=lambda step: 1e-3,
        num_microbatches=num_microbatches if num_microbatches > 1 else None,
    )
    return trainer._partitioned_train_step.lower(start.global_train_state_shape, dict(batch))
