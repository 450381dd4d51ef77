"""A trained verifier at work: question and rationale -> probability that the rationale is right."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cotdistill_jax import checkpoints, decoding, network
from cotdistill_jax.inference import verification
from cotdistill_jax.inference.vocabulary import Vocabulary


class Verifier:
    """Scores rationales with a FlanT5 trained on a `{source}_verifier_v1` task."""

    def __init__(self, model: checkpoints.Model, batch_size: int = 64) -> None:
        """Puts the parameters on the default device.

        Args:
            model: from `selection.load`.
            batch_size: texts scored together; no effect on the scores beyond rounding.
        """
        self._config, self._params = model.config, jax.device_put(model.params)
        self._batch_size = batch_size
        self._words = Vocabulary(model.vocabulary_file)
        verdicts = [self._words.encode(word) for word in (verification.YES, verification.NO)]
        self._verdicts = np.zeros((2, max(map(len, verdicts))), np.int32)
        for row, ids in zip(self._verdicts, verdicts, strict=True):
            row[: len(ids)] = ids

    def scores(self, questions: Sequence[str], rationales: Sequence[str]) -> list[float]:
        """Returns P(yes) / (P(yes) + P(no)) of every rationale, in [0, 1].

        Args:
            questions: one per rationale.
            rationales: texts that answer them.

        Raises:
            ValueError: the model gives no finite probabilities.
        """
        pairs = zip(questions, rationales, strict=True)
        inputs = [self._words.encode(verification.render(*pair)) for pair in pairs]
        order = sorted(range(len(inputs)), key=lambda row: len(inputs[row]))
        found = np.zeros(len(inputs))
        for first in range(0, len(order), self._batch_size):
            rows = order[first : first + self._batch_size]
            length = decoding.bucket_length(len(inputs[rows[-1]]))
            tokens = np.zeros((self._batch_size, length), np.int32)
            for place, row in enumerate(rows):
                tokens[place, : len(inputs[row])] = inputs[row]
            scored = np.asarray(_scores(self._config, self._params, tokens, self._verdicts))
            found[rows] = scored[: len(rows)]
        if not np.isfinite(found).all():
            raise ValueError("inference: the verifier gives probabilities that are not finite")
        return found.tolist()


@functools.partial(jax.jit, static_argnames=("config",))
def _scores(
    config: network.T5Config, params: Any, tokens: jax.Array, verdicts: jax.Array
) -> jax.Array:
    """Returns the scores [B] of tokens [B, S]; verdicts [2, L] are the ids of yes and no, 0 is padding."""
    model = network.Transformer(config)
    encoded = model.apply({"params": params}, tokens, None, False, method="encode")

    def log_prob(verdict: jax.Array) -> jax.Array:
        targets = jnp.broadcast_to(verdict, (tokens.shape[0], verdict.shape[0]))
        shifted = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        # All ones: the 0 that starts the decoder must not be taken for padding; what follows EOS counts nothing.
        logits: Any = model.apply(
            {"params": params},
            encoded,
            tokens,
            shifted,
            jnp.ones_like(targets),
            enable_dropout=False,
            method="decode",
        )
        log_probs = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(targets > 0, picked, 0.0), axis=-1)

    return jax.nn.sigmoid(log_prob(verdicts[0]) - log_prob(verdicts[1]))
