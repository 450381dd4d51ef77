"""Parameters of the scanned form (one array per name) from those of one name per layer, and back."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util


def stack_layers(
    params: Mapping[str, Any], stack: Callable[[list[Any]], Any] | None = None
) -> dict[str, Any]:
    """Returns the parameters of the scanned form: one array per name, layers on axis 0.

    Args:
        params: Nested dict of arrays, `{stack}/layers_{i}/...`.
        stack: Makes one array of many, with a new axis 0; default is NumPy's for NumPy's arrays, else JAX's.

    Example:
        `encoder/layers_0/mlp/wo/kernel` [F, D] and its siblings become `encoder/layers/mlp/wo/kernel`
        [layers, F, D].
    """
    stacked: dict[tuple[str, ...], Any] = {}
    groups: dict[tuple[str, ...], dict[int, Any]] = {}
    for path, leaf in traverse_util.flatten_dict(dict(params)).items():
        layer = path[1].removeprefix("layers_")
        if layer == path[1]:
            stacked[path] = leaf
        else:
            groups.setdefault((path[0], "layers", *path[2:]), {})[int(layer)] = leaf
    for path, leaves in groups.items():
        default = np.stack if isinstance(leaves[0], np.ndarray) else jnp.stack
        stacked[path] = (stack or default)([leaves[i] for i in range(len(leaves))])
    return traverse_util.unflatten_dict(stacked)


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of the form with one name per layer; undoes `stack_layers`."""
    single: dict[tuple[str, ...], Any] = {}
    for path, leaf in traverse_util.flatten_dict(dict(params)).items():
        if path[1] == "layers":
            for i, of_layer in enumerate(leaf):
                single[(path[0], f"layers_{i}", *path[2:])] = of_layer
        else:
            single[path] = leaf
    return traverse_util.unflatten_dict(single)
