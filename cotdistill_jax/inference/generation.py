"""Prompts to completions with a loaded model, on one device or on a mesh."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cotdistill_jax import checkpoints, decoding, partitioning
from cotdistill_jax.checkpoints import placement
from cotdistill_jax.inference.planning import Sampling


class Generator:
    """A model on its devices, ready to complete prompts.

    Attributes:
        top_k: how many alternatives its completions have at each position.
    """

    def __init__(
        self,
        model: checkpoints.Model,
        *,
        batch_size: int,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        mesh: jax.sharding.Mesh | None = None,
        top_k: int = 0,
        weights: str = decoding.FLOAT,
    ) -> None:
        """Puts the parameters on the devices.

        Args:
            model: from `checkpoints.load_model`.
            batch_size: texts decoded together.
            max_new_tokens: the most tokens generated per text, EOS included.
            sampling: how texts are drawn; None for greedy decoding.
            mesh: from `partitioning.make_mesh`; None uses the default device.
            top_k: how many alternatives to record at each position.
            weights: a name in `decoding.WEIGHT_KINDS`: the decoder's matrices as floats or in 8 bits.

        Raises:
            ValueError: unknown weights, the mesh does not divide the network or the batch, or a sampling setting is out of range.
        """
        self._config = model.config
        self._where = str(model.path)
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        self._mesh, self.top_k = mesh, top_k
        self._num_samples, self._seed = 1, 0
        self._chooser: decoding.Chooser = decoding.most_likely
        if sampling:
            self._num_samples, self._seed = sampling.num_samples, sampling.seed
            self._chooser = decoding.Sampler(sampling.temperature, sampling.top_k, sampling.top_p)
        shardings: Any
        if mesh is None:
            shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        else:
            partitioning.check_mesh(mesh, model.config, batch_size)
            variables = checkpoints.abstract_variables(model.config)
            shardings = partitioning.param_shardings(mesh, variables)
        params = placement.place(model.params, shardings)
        self._kind = weights
        self._weights = decoding.prepare(model.config, params, weights, consume=True)

    def answers(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[decoding.Answer]]:
        """Yields the completions in portions of a quarter of the batch, as they are done.

        Args:
            prompts: token ids, EOS included.

        Raises:
            ValueError: the model gives no finite probabilities.
        """
        portion: list[decoding.Answer] = []
        for answer in decoding.stream(
            self._config,
            self._weights,
            prompts,
            self._max_new_tokens,
            batch_size=self._batch_size,
            chooser=self._chooser,
            key=jax.random.key(self._seed),
            num_samples=self._num_samples,
            top_k=self.top_k,
            weights=self._kind,
            mesh=self._mesh,
        ):
            self._check_finite(answer.completion)
            portion.append(answer)
            if 4 * len(portion) >= self._batch_size:
                yield portion
                portion = []
        if portion:
            yield portion

    def _check_finite(self, completion: decoding.Completion) -> None:
        if not math.isfinite(sum(completion.log_probs)):
            raise ValueError(
                f"inference: the model {self._where} gives probabilities that are not finite; its parameters "
                "hold NaN or overflow. Use an earlier checkpoint, or float32."
            )


def params_sha256(model: checkpoints.Model) -> str:
    """Returns a checksum of the parameters, for a model that is not on disk."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def dtype_name(model: checkpoints.Model) -> str:
    """Returns the type of the model's activations, such as `float32`."""
    return jnp.dtype(model.config.dtype).name


def with_dtype(model: checkpoints.Model, dtype: str) -> checkpoints.Model:
    """Returns the model with activations of another type, `float32` or `bfloat16`."""
    return dataclasses.replace(model, config=dataclasses.replace(model.config, dtype=dtype))
