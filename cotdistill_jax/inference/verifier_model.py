"""A trained verifier at work: question and rationale -> how probable the rationale is if it is right, and if it is wrong."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cotdistill_jax import checkpoints, decoding, network
from cotdistill_jax.inference import verification
from cotdistill_jax.inference.verification import Judgement
from cotdistill_jax.inference.vocabulary import Vocabulary


class Verifier:
    """Judges rationales with a FlanT5 trained on a `{source}_verifier_v2` task."""

    def __init__(self, model: checkpoints.Model, batch_size: int = 64) -> None:
        """Puts the parameters on the default device.

        Args:
            model: from `selection.load`.
            batch_size: texts judged together; no effect on what is said beyond rounding.
        """
        self._config, self._params = model.config, jax.device_put(model.params)
        self._batch_size = batch_size
        self._words = Vocabulary(model.vocabulary_file)

    def judge(self, questions: Sequence[str], rationales: Sequence[str]) -> list[Judgement]:
        """Returns what the verifier makes of every rationale; equal pairs are judged once.

        Args:
            questions: one per rationale.
            rationales: texts that answer them.

        Raises:
            ValueError: the model gives no finite probabilities.
        """
        pairs = list(zip(questions, rationales, strict=True))
        distinct = list(dict.fromkeys(pairs))
        targets = [self._words.encode(rationale) for _, rationale in distinct]
        found = [
            self._log_probs(
                [
                    self._words.encode(verification.render(question, right))
                    for question, _ in distinct
                ],
                targets,
            )
            for right in (True, False)
        ]
        if not np.isfinite(found).all():
            raise ValueError("inference: the verifier gives probabilities that are not finite")
        judged = {
            pair: Judgement(float(if_right), float(if_wrong))
            for pair, if_right, if_wrong in zip(distinct, *found, strict=True)
        }
        return [judged[pair] for pair in pairs]

    def _log_probs(
        self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """Returns the log-probability of every target after its input, those of similar lengths together."""
        order = sorted(range(len(inputs)), key=lambda row: (len(inputs[row]), len(targets[row])))
        found = np.zeros(len(inputs))
        for first in range(0, len(order), self._batch_size):
            rows = order[first : first + self._batch_size]
            scored = _log_probs(
                self._config,
                self._params,
                _padded([inputs[row] for row in rows], self._batch_size),
                _padded([targets[row] for row in rows], self._batch_size),
            )
            found[rows] = np.asarray(scored)[: len(rows)]
        return found


def _padded(rows: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
    """Returns rows of ids as int32 [B, length of the longest one's bucket], 0 where there is nothing."""
    tokens = np.zeros((batch_size, decoding.bucket_length(max(map(len, rows)))), np.int32)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    return tokens


@functools.partial(jax.jit, static_argnames=("config",))
def _log_probs(
    config: network.T5Config, params: Any, inputs: jax.Array, targets: jax.Array
) -> jax.Array:
    """Returns the log-probabilities [B] of targets [B, L] after inputs [B, S]; 0 is padding."""
    shifted = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    logits: Any = network.Transformer(config).apply(
        {"params": params}, inputs, shifted, targets, enable_dropout=False
    )
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(targets > 0, picked, 0.0), axis=-1)
