"""The project under T5X: what the gin files in `gin/t5x/` bind, and the only module that imports t5x.

| name | role under T5X |
|---|---|
| `DistillEncDecModel` | the model: our network, losses, feature converter and greedy decoding |
| `DistillTrainer` | the trainer: weights of target tokens over the whole batch, whatever the number of microbatches |
| `Partitioner` | the mesh and the axis rules of `partitioning.py`, checked against model and batch |
| `Optimizer` | any chain of Optax transformations, its state sharded like the parameters |
| `train_iterator`, `evaluation_dataset` | the input of training and of SeqIO's evaluator |
| `initial_checkpoint` | the weights a new run starts from |
| `StopOnNonFiniteLoss` | ends a run whose loss is NaN or infinite |
| `describe_run`, `subfolder` | `model.json` and the vocabulary beside the checkpoints; output folders |

Both runners take the same leaf, draw the same parameters and dropout masks from its seed, read the same batches and
weight the same tokens, so that their losses agree step by step and either continues the other's run. (With dropout,
several microbatches draw other masks than the embedded runner's.)
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import optax
import seqio
from clu import metrics as clu_metrics

from cotdistill_jax import decoding, features, losses, network, partitioning
from cotdistill_jax.checkpoints import initial, write_model_files
from cotdistill_jax.train import data, evaluation, loop, run_folder, step

try:
    from t5x import gin_utils, models, trainer, utils
    from t5x import metrics as t5x_metrics
    from t5x import optimizers as t5x_optimizers
    from t5x import partitioning as t5x_partitioning
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"t5x_model: T5X is not installed ({error}). It is not on PyPI: run `bash scripts/install_t5x.sh`, which "
        "installs scripts/requirements-t5x.txt. The embedded runner, `python -m cotdistill_jax.train`, needs none of it.",
        name=error.name,
    ) from error

Array = jax.Array
Batch = Mapping[str, Any]

# Axes that no rule splits; Flax wants them named.
_REPLICATED = ("relpos_buckets", "abspos_buckets", "length", "layers", "stack", "kv")


class DistillEncDecModel(models.EncoderDecoderModel):
    """T5X's encoder-decoder model over our network and losses.

    The loss of a batch is the sum of its token losses times `decoder_loss_weights`. `DistillTrainer` and `eval_fn`
    scale these weights so that they add up to one; another T5X trainer leaves them 0 or 1 and gets the plain sum.

    Metrics: `loss`, and per target token `nll_per_token`, `token_accuracy`, `teacher_fraction` (share of tokens with a
    teacher's distribution), `kl_per_token` (the divergence, over those tokens) and `nll_per_answer_token` (over the
    others).
    """

    FEATURE_CONVERTER_CLS = features.DistillEncDecFeatureConverter

    def __init__(
        self,
        config: network.T5Config,
        mixture_or_task_name: str,
        optimizer_def: Any,
        token_loss: losses.LossFn = losses.sample_matching,
        init_seed: int | None = None,
        decode_fn: Any = None,
    ) -> None:
        """Makes the model.

        Args:
            config: Dimensions of the network.
            mixture_or_task_name: Its vocabulary becomes the model's.
            optimizer_def: An `Optimizer`.
            token_loss: `losses.sample_matching` or `losses.distribution_matching`, options bound.
            init_seed: Seed of the drawn parameters, the same draw as the embedded runner's; None takes T5X's key.
            decode_fn: One of `t5x.decoding`; None decodes greedily (`decoding.greedy`). `t5x.decoding.beam_search`
                with one beam is not greedy: it goes on from the runner-up of a finished row.

        Raises:
            ValueError: Unknown task or mixture, or its vocabulary is larger than the network's.
        """
        data.check_registered(mixture_or_task_name)
        data.check_vocabulary(mixture_or_task_name, config)
        declared = seqio.get_mixture_or_task(mixture_or_task_name).output_features
        super().__init__(
            module=network.Transformer(config),
            input_vocabulary=declared["inputs"].vocabulary,
            output_vocabulary=declared["targets"].vocabulary,
            optimizer_def=optimizer_def,
            decode_fn=decode_fn,
        )
        self._config = config
        self._token_loss = token_loss
        self._init_seed = init_seed

    def get_initial_variables(
        self, rng: Array, input_shapes: Mapping[str, Any], input_types: Any = None
    ) -> Any:
        """Returns drawn parameters and their logical axes."""
        key = rng if self._init_seed is None else jax.random.key(self._init_seed)
        # `t5x.eval` and `t5x.infer` name no types, and T5X would then draw float32 tokens.
        types = dict.fromkeys(input_shapes, jnp.int32) if input_types is None else input_types
        return super().get_initial_variables(key, input_shapes, types)

    def loss_fn(
        self, params: Any, batch: Batch, dropout_rng: Array | None
    ) -> tuple[Array, dict[str, Any]]:
        """Returns the weighted sum of the token losses, float32 [], and the metrics; see the class."""
        use_dropout = self._config.dropout_rate > 0
        logits = self._compute_logits(params, batch, dropout_rng if use_dropout else None)
        token_loss, parts = self._token_loss(logits, batch)
        weights = batch["decoder_loss_weights"].astype(jnp.float32)
        loss = jnp.sum(token_loss * weights)
        return loss, _metrics(loss, parts, weights)

    def eval_fn(self, params: Any, batch: Batch) -> tuple[Array, dict[str, Any]]:
        """Returns the loss per target token without dropout, and the metrics."""
        return self.loss_fn(params, _normalised(batch), None)

    def predict_batch_with_aux(
        self, params: Any, batch: Batch, rng: Array | None = None, **options: Any
    ) -> tuple[Array, dict[str, Array]]:
        """Returns tokens int32 [B, L] and `scores`, the log-probability of every row, float32 [B].

        Args:
            params: Parameters of the network.
            batch: `encoder_input_tokens` [B, S]; `decoder_input_tokens` [B, L] for L, the most tokens produced.
            rng: For a `decode_fn` that samples.
            **options: For T5X's decoding, where the model has a `decode_fn`.
        """
        if self.decode_fn is not None:
            return super().predict_batch_with_aux(params, batch, rng, **options)
        if options:
            raise ValueError(
                f"t5x_model: greedy decoding takes no {sorted(options)}; bind decode_fn to one of t5x.decoding"
            )
        limit = batch["decoder_input_tokens"].shape[1]
        decoded = decoding.greedy(self._config, params, batch["encoder_input_tokens"], limit)
        return decoded.tokens, {"scores": jnp.sum(decoded.log_probs, axis=-1)}


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
            return trainer.train_with_lr(
                train_state,
                step.in_order_of_microbatches(_normalised(batch), count),
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
            mesh_shape: Devices along (data, fsdp, model) or (data, model); None puts all on data.
            network_config: Dimensions that the mesh must divide.
            batch_size: Rows of a batch, which it must divide, too.
            num_microbatches: Parts that a batch is cut into.

        Raises:
            ValueError: The mesh fits neither devices nor model nor batch; the message lists each misfit.
        """
        self._chosen_mesh = partitioning.make_mesh(mesh_shape)
        partitioning.check_mesh(self._chosen_mesh, network_config, batch_size, num_microbatches)
        rules = [*partitioning.LOGICAL_AXIS_RULES, *((name, None) for name in _REPLICATED)]
        super().__init__(num_partitions=1, logical_axis_rules=rules)

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


def train_iterator(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    *_: Any,
    model_dir: str,
    network_config: network.T5Config,
    token_loss: losses.LossFn,
    count_examples: int | None = None,
) -> Any:
    """Returns the batches that T5X trains on, after counting what their lengths leave out, to `data_counts.json`.

    Args:
        cfg: Names task, lengths, batch and seed.
        shard_id: Of T5X: this host's part of the data.
        num_shards: Number of parts.
        *_: Of T5X: the model's feature converter, which is the only one, and how often to repeat: for ever.
        model_dir: The run folder.
        network_config: Dimensions of the network.
        token_loss: Compared with what a batch holds.
        count_examples: Examples per task that are measured; None: all, 0: none.

    Raises:
        ValueError: A task has no example that fits, or the loss needs features that the task or the lengths don't name.
    """
    iterator = data.train_iterator(
        cfg.mixture_or_task_name,
        cfg.task_feature_lengths,
        cfg.batch_size,
        seed=cfg.seed,
        pack=cfg.pack,
        use_cached=cfg.use_cached,
        shard=(shard_id, num_shards),
    )
    step.check_loss(token_loss, network_config, iterator.element_spec)
    if count_examples != 0:
        reports = data.count_overlong(
            cfg.mixture_or_task_name,
            cfg.task_feature_lengths,
            count_examples,
            cfg.seed,
            cfg.use_cached,
        )
        if jax.process_index() == 0:
            run_folder.write_data_counts(run_folder.prepare(model_dir), reports)
    return iterator


def evaluation_dataset(
    mixture_or_task_name: str,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    split: str = "validation",
    seed: int = 0,
    period: int | None = 1,
) -> utils.DatasetConfig | None:
    """Returns what SeqIO's evaluator or `t5x.infer` reads, or None where `period` is None.

    Args:
        mixture_or_task_name: What to evaluate.
        feature_lengths: Positions of `inputs`, and of `targets`: the most tokens generated.
        batch_size: Rows decoded together.
        split: Split to read.
        seed: Seed of random preprocessing (drawing demonstrations).
        period: Steps between evaluations in training.

    Raises:
        ValueError: Unknown task or mixture.
    """
    if period is None:
        return None
    data.check_registered(mixture_or_task_name)
    return utils.DatasetConfig(
        mixture_or_task_name=mixture_or_task_name,
        task_feature_lengths=evaluation.sequence_length(mixture_or_task_name, feature_lengths),
        split=split,
        batch_size=batch_size,
        shuffle=False,
        seed=seed,
        pack=False,
    )


def initial_checkpoint(
    path: str | None, network_config: network.T5Config
) -> utils.RestoreCheckpointConfig | None:
    """Returns how T5X restores the weights that a new run starts from; None where `path` is None.

    The step and the optimizer's state are not taken over.

    Args:
        path: A T5X `checkpoint_N` folder, legacy or Orbax, or a run folder of either runner (its newest whole
            step); local or `gs://`.
        network_config: Dimensions of the network.

    Raises:
        ValueError: It holds another network (the message lists what differs), or is a Hugging Face folder, which
            T5X can't read.
        FileNotFoundError: There is no checkpoint.
    """
    if path is None:
        return None
    return utils.RestoreCheckpointConfig(
        path=initial.locate_t5x(path, network_config),
        mode="specific",
        dtype="float32",
        assignment_map=((r"^state.*", None),),
        fallback_to_scratch=True,
    )


def describe_run(
    model_dir: str,
    summary_writer: Any,
    step: int,
    *,
    network_config: network.T5Config,
    mixture_or_task_name: str,
) -> None:
    """Writes `config.gin`, `model.json` and the vocabulary, so that every command of the project reads the run.

    Args:
        model_dir: The run folder.
        summary_writer: T5X's.
        step: The run's step.
        network_config: Dimensions of the network.
        mixture_or_task_name: Its vocabulary is copied.

    Raises:
        ValueError: The folder belongs to another network or vocabulary.
    """
    gin_utils.summarize_gin_config(model_dir, summary_writer, step)
    if jax.process_index() == 0:
        write_model_files(model_dir, network_config, *data.vocabulary_of(mixture_or_task_name))


def subfolder(parent: str, name: str) -> str:
    """Returns `parent`/`name`: gin files can't join strings.

    Example: `subfolder("gs://bucket/a/", "t5x_eval")` is `"gs://bucket/a/t5x_eval"`.
    """
    return f"{parent.rstrip('/')}/{name}"


def _normalised(batch: Batch) -> dict[str, Any]:
    """Returns `batch` with weights that add up to one."""
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    return {**batch, "decoder_loss_weights": weights / jnp.maximum(jnp.sum(weights), 1.0)}


def _metrics(loss: Array, parts: losses.Parts, weights: Array) -> dict[str, Any]:
    real = (weights > 0).astype(jnp.float32)
    taught = parts["has_teacher"] * real

    def mean(values: Array, where: Array) -> clu_metrics.Average:
        # A batch without such tokens adds nothing to the mean; alone it gives 0, not NaN.
        return clu_metrics.Average(
            total=jnp.sum(values * where), count=jnp.maximum(jnp.sum(where), 1e-9)
        )

    return {
        "loss": t5x_metrics.AveragePerStep(total=loss),
        "nll_per_token": mean(parts["nll"], real),
        "nll_per_answer_token": mean(parts["nll"], real - taught),
        "kl_per_token": mean(parts["divergence"], taught),
        "teacher_fraction": mean(parts["has_teacher"], real),
        "token_accuracy": mean(parts["correct"], real),
        "timing/steps_per_second": t5x_metrics.StepsPerTime.from_model_output(),
        "timing/seconds": t5x_metrics.Time(),
        "timing/target_tokens_per_second": t5x_metrics.TimeRate.from_model_output(
            numerator=jnp.sum(real)
        ),
    }
