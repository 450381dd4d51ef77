"""The model class: our network, losses, feature converter and greedy decoding behind T5X's interface."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from t5x import metrics as t5x_metrics
from t5x import models

from cotdistill_jax import decoding, features, losses, network
from cotdistill_jax.train import data, step

Array = jax.Array
Batch = Mapping[str, Any]


class DistillEncDecModel(models.EncoderDecoderModel):
    """T5X's encoder-decoder model over our network and losses.

    The loss of a batch is the sum of its token losses times `decoder_loss_weights`. `DistillTrainer` and `eval_fn`
    scale these weights so that they add up to one; another T5X trainer leaves them as they are and gets the plain sum.

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
        num_loss_chunks: int = 1,
        init_seed: int | None = None,
        decode_fn: Any = None,
    ) -> None:
        """Makes the model.

        Args:
            config: Dimensions of the network.
            mixture_or_task_name: Its vocabulary becomes the model's.
            optimizer_def: An `Optimizer`.
            token_loss: `losses.sample_matching` or `losses.distribution_matching`, options bound.
            num_loss_chunks: Parts of the target positions, so that not all logits are held at once.
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
        self._num_loss_chunks = num_loss_chunks
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
        loss, parts = step.weighted_sum(
            self._config, self._token_loss, params, batch, dropout_rng, self._num_loss_chunks
        )
        return loss, _metrics(loss, parts, batch["decoder_loss_weights"].astype(jnp.float32))

    def eval_fn(self, params: Any, batch: Batch) -> tuple[Array, dict[str, Any]]:
        """Returns the loss per target token without dropout, and the metrics."""
        return self.loss_fn(params, normalised(batch), None)

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


def normalised(batch: Batch) -> dict[str, Any]:
    """Returns `batch` with weights that add up to one."""
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    return {**batch, "decoder_loss_weights": weights / jnp.maximum(jnp.sum(weights), 1e-9)}


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
