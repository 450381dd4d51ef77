"""How T5X steps: trainer, mesh, optimizer, and the end of a run whose loss is not finite."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import optax
from t5x import optimizers as t5x_optimizers
from t5x import partitioning as t5x_partitioning
from t5x import trainer

from cotdistill_jax import network, partitioning
from cotdistill_jax.t5x_model.model import Batch, normalised
from cotdistill_jax.train import loop, starting, step

# Axes that no rule splits; Flax wants them named.
_REPLICATED = ("relpos_buckets", "abspos_buckets", "length", "layers", "stack", "kv")


class DistillTrainer(trainer.Trainer):
    """T5X's trainer with the embedded runner's weights, microbatches and dropout keys.

    T5X adds up the gradients of the microbatches, so the weights of the target tokens are divided by their sum over
    the whole batch first. Row i goes to microbatch i % n, as in `train.step`.
    """

    def __init__(
        self,
        *args: Any,
        seed: int | None = None,
        weigh_microbatches_alike: bool = False,
        **kwargs: Any,
    ) -> None:
        """Makes a trainer; T5X passes the arguments that are not named here.

        Args:
            *args: Of `t5x.trainer.Trainer`.
            seed: Seed of dropout; None takes T5X's key.
            weigh_microbatches_alike: Whether every microbatch counts alike, whatever its number of target tokens.
            **kwargs: Of `t5x.trainer.Trainer`.
        """
        super().__init__(*args, **kwargs)
        if seed is not None:
            self._base_rng = jax.random.key(seed)
        self._weigh_alike = weigh_microbatches_alike

    @functools.cached_property
    def _partitioned_train_step(self) -> Any:
        count = self._num_microbatches or 1

        def train_step(train_state: Any, batch: Batch) -> Any:
            if self._weigh_alike:
                batch = step.weigh_microbatches_alike(batch, count)
            # T5X sets the rules, but its way of setting the mesh is not one that Flax's constraints see.
            with partitioning.constrained_activations(self._partitioner.mesh):
                return trainer.train_with_lr(
                    train_state,
                    step.in_order_of_microbatches(normalised(batch), count),
                    learning_rate=self._learning_rate_fn(train_state.step),
                    dropout_rng=self._get_step_rng(train_state.step),
                    model=self._model,
                    num_microbatches=count,
                    weight_metrics_computer=self._weight_metrics_computer,
                    data_partition_spec=self._partitioner.data_partition_spec,
                )

        rows = self._partitioner.data_partition_spec
        return self._partitioner.partition(
            train_step,
            in_axis_resources=(self._train_state_axes, rows),
            out_axis_resources=(self._train_state_axes, None),
            donate_argnums=(0,),
        )


def logical_axis_rules() -> list[tuple[str, str | tuple[str, ...] | None]]:
    """Returns the embedded runner's rules, and a word on every other axis."""
    return [*partitioning.LOGICAL_AXIS_RULES, *((name, None) for name in _REPLICATED)]


class Partitioner(t5x_partitioning.PjitPartitioner):
    """T5X's partitioner on the mesh of the embedded runner, on every platform.

    T5X's own ignores `num_partitions` on CPUs and has no axis for fully sharded parameters.
    """

    def __init__(
        self,
        mesh_shape: Sequence[int] | None,
        network_config: network.T5Config,
        batch_size: int | None = None,
        num_microbatches: int = 1,
    ) -> None:
        """Makes the mesh.

        Args:
            mesh_shape: Devices along (data, fsdp, model) or (data, model); None chooses and says so.
            network_config: Dimensions that the mesh must divide.
            batch_size: Rows of a batch, which it must divide, too.
            num_microbatches: Parts that a batch is cut into.

        Raises:
            ValueError: The mesh fits neither devices nor model nor batch; the message lists each misfit.
        """
        self._chosen_mesh = starting.checked_mesh(
            None if mesh_shape is None else tuple(mesh_shape),
            network_config,
            batch_size,
            num_microbatches,
        )
        super().__init__(num_partitions=1, logical_axis_rules=logical_axis_rules())

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh with the axes data, fsdp and model."""
        return self._chosen_mesh


class Optimizer(t5x_optimizers.OptaxWrapper):
    """A chain of Optax transformations; T5X's own knows no sharding for the states of some, such as Adafactor."""

    def __init__(self, transformations: Sequence[optax.GradientTransformation]) -> None:
        """Makes the chain, in this order."""
        super().__init__(optax.chain(*transformations))

    def derive_logical_axes(self, optimizer: Any, param_logical_axes: Any) -> Any:
        """Returns `optimizer` with axes for leaves: a parameter's own where the shapes agree, None elsewhere."""
        state = optimizer.state
        axes = optax.tree.map_params(
            self.optax_optimizer,
            lambda leaf, param, axes: axes if leaf.shape == param.shape else None,
            state.param_states,
            optimizer.target,
            param_logical_axes,
            transform_non_params=lambda _: None,
        )
        tree = jax.tree.map(lambda _: None, optimizer.state_dict())
        tree["target"] = param_logical_axes
        tree["state"]["param_states"] = flax.serialization.to_state_dict(axes)
        return optimizer.restore_state(tree)


class StopOnNonFiniteLoss(trainer.BaseAction):
    """Ends the run, before another checkpoint is written, when the mean loss of a logging period is not finite."""

    def run(self, train_state: Any, metrics_by_task: Mapping[str, Any]) -> bool:
        """Returns False.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite.
        """
        value = float(metrics_by_task["train"]["loss"].value)
        if not jnp.isfinite(value):
            raise loop.NonFiniteLossError(
                f"train: loss {value} in the steps up to {int(train_state.step)}; no checkpoint was written since. "
                "Lower LEARNING_RATE, raise WARMUP_STEPS or clip the gradient"
            )
        return False
