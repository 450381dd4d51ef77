"""The parameters that a network begins with, drawn by one small program for each shape.

Flax's `init` of a whole network is one program that holds every matrix's own random numbers: with layers that are not scanned it grows
with depth, and compiles for minutes on a GPU. So the network is only traced here, to learn which initializer, shape and random key each
parameter has, and parameters alike are drawn by the same program, one after the other. The values are those of `init`.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.core.scope import LazyRng
from flax.linen.partitioning import param_with_axes
from jax import Array

Initializer = Callable[[Array, tuple[int, ...], Any], Array]
Path = tuple[str, ...]


class Draw(NamedTuple):
    """How a parameter of one layer is drawn.

    Attributes:
        initializer: Makes it from a key, a shape and a dtype.
        shape: Its own, without the axis of scanned layers.
        folded: What Flax folds into the root key for it: the module's path and a count.
    """

    initializer: Initializer
    shape: tuple[int, ...]
    folded: tuple[str | int, ...]


_draws: contextvars.ContextVar[dict[Path, Draw] | None] = contextvars.ContextVar("_draws")


@contextlib.contextmanager
def recorded() -> Iterator[dict[Path, Draw]]:
    """Yields path -> `Draw` of all parameters that networks make while it is open."""
    draws: dict[Path, Draw] = {}
    token = _draws.set(draws)
    try:
        yield draws
    finally:
        _draws.reset(token)


def parameter(
    module: nn.Module,
    name: str,
    initializer: Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
) -> Array:
    """Returns a module's float32 parameter, as `param_with_axes` does.

    Args:
        module: That the parameter belongs to; called in its `setup` or compact method.
        name: Of the parameter.
        initializer: One and the same function for parameters that are drawn alike.
        shape: Of the parameter.
        axes: Logical axes.
    """
    value: Array = param_with_axes(name, initializer, shape, jnp.float32, axes=axes, module=module)
    draws, scope = _draws.get(None), module.scope
    if draws is not None and scope is not None:
        folded = (*scope.rngs["params"].suffix, scope.rng_counters["params"])
        # A scan initializes its layer twice; the second time counts.
        draws[(*scope.path, name)] = Draw(initializer, shape, folded)
    return value


def draw(
    draws: Mapping[Path, Draw], like: Mapping[str, Any], key: Array, shardings: Any = None
) -> dict[str, Any]:
    """Returns the parameters that Flax's `init` returns for a key.

    Args:
        draws: From `recorded`, around a trace of `init`.
        like: The tree of parameters, their shapes; scanned layers have a leading axis.
        key: Root key from `jax.random.key`, the same in all processes.
        shardings: Tree of `like`'s structure: each device draws what it holds. None: on the default device.
    """
    layouts = traverse_util.flatten_dict(shardings) if shardings is not None else {}
    drawn = {}
    for path, leaf in traverse_util.flatten_dict(dict(like)).items():
        initializer, shape, folded = draws[path]
        layers = leaf.shape[: len(leaf.shape) - len(shape)]
        keys = jax.random.split(key, layers) if layers else key
        data = jax.random.key_data(_fold(keys, folded))
        if not isinstance(data, jax.core.Tracer):
            data = jax.device_get(data)  # belongs to no device: all processes give the same
        drawn[path] = _program(initializer, shape, layouts.get(path))(data)
    return traverse_util.unflatten_dict(drawn)


def _fold(keys: Array, folded: tuple[str | int, ...]) -> Array:
    return (
        LazyRng.create(keys, *folded).as_jax_rng()
        if keys.ndim == 0
        else jax.vmap(lambda key: LazyRng.create(key, *folded).as_jax_rng())(keys)
    )


@functools.lru_cache(maxsize=256)
def _program(initializer: Initializer, shape: tuple[int, ...], sharding: Any) -> Any:
    """Returns the program that draws one parameter, or that of all scanned layers, from the data of its key or keys."""

    def one(data: Array) -> Array:
        return initializer(jax.random.wrap_key_data(data), shape, jnp.float32)

    def program(data: Array) -> Array:
        return one(data) if data.ndim == 1 else jax.lax.map(one, data)

    return jax.jit(program, out_shardings=sharding)
