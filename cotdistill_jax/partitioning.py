"""Device mesh and sharding: T5X's logical-axis rules on a (data, fsdp, model) mesh.

Parameters carry logical axis names (`network`); `LOGICAL_AXIS_RULES` says which mesh axis each name is split over.

| logical axis | mesh axis | what it splits |
|---|---|---|
| batch | data and fsdp | examples |
| vocab, mlp, heads, joined_kv | model | matrix columns, as T5X's 1-D rules |
| embed | fsdp | parameters and optimizer state, gathered when used |
| the rest | none | replicated |

With fsdp = 1 the rules are T5X's `standard_logical_axis_rules()`.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cotdistill_jax import network

MESH_AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")
LOGICAL_AXIS_RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    ("batch", BATCH_AXES),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("embed", "fsdp"),
)


def make_mesh(
    shape: Sequence[int] | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns a mesh with the axes data, fsdp, model.

    Args:
      shape: devices along (data, fsdp, model), or (data, model) for fsdp = 1; None puts all on data.
      devices: the devices to use; all of them by default.

    Raises:
      ValueError: the shape does not multiply to the number of devices.
    """
    devices = list(devices) if devices is not None else jax.devices()
    shape = tuple(shape) if shape is not None else (len(devices), 1, 1)
    if len(shape) == 2:
        shape = (shape[0], 1, shape[1])
    if len(shape) != 3 or math.prod(shape) != len(devices):
        raise ValueError(
            f"mesh: shape {shape} needs {math.prod(shape)} devices, got {len(devices)} "
            f"({devices[0].platform}); set MESH_SHAPE = (data, fsdp, model) to a product of {len(devices)}"
        )
    return Mesh(np.asarray(devices).reshape(shape), MESH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every [B, ...] array of a batch: split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


@contextlib.contextmanager
def constrained_activations(mesh: Mesh) -> Iterator[None]:
    """Lets the network's sharding constraints take hold in what is traced inside.

    Without it they are skipped, and XLA lays activations out as it likes: with fsdp > 1 along D, like the parameters, so that
    whole activations, larger than the parameters, travel between devices.
    """
    if mesh.size == 1:
        yield
        return
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        flax_partitioning.axis_rules(LOGICAL_AXIS_RULES),
    ):
        yield


def check_mesh(
    mesh: Mesh, config: network.T5Config, batch_size: int | None = None, num_microbatches: int = 1
) -> None:
    """Checks, before anything compiles, that the mesh divides the model and the batch.

    Raises:
      ValueError: names each quantity that is not divisible, with its size and the mesh axis.
    """
    sizes = dict(mesh.shape)
    model, rows = sizes["model"], sizes["data"] * sizes["fsdp"]
    quantities = {
        ("model", model): {
            "vocab_size": config.vocab_size,
            "num_heads": config.num_heads,
            "num_heads * head_dim": config.num_heads * config.head_dim,
            "mlp_dim": config.mlp_dim,
        },
        ("fsdp", sizes["fsdp"]): {"emb_dim": config.emb_dim},
    }
    faults = [
        f"{name} = {size} over {axis} = {count}"
        for (axis, count), named in quantities.items()
        for name, size in named.items()
        if size % count
    ]
    if batch_size is not None:
        if batch_size % num_microbatches:
            faults.append(f"batch_size = {batch_size} over num_microbatches = {num_microbatches}")
        elif (batch_size // num_microbatches) % rows:
            faults.append(
                f"batch_size / num_microbatches = {batch_size // num_microbatches} over data * fsdp = {rows}"
            )
    if faults:
        raise ValueError(
            f"mesh {sizes}: not divisible: {'; '.join(faults)}; choose another MESH_SHAPE or BATCH_SIZE"
        )


def param_shardings(mesh: Mesh, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree of shardings of `variables['params']`.

    Args:
      mesh: from `make_mesh`.
      variables: what `Transformer.init` (or its `jax.eval_shape`) returns: `params` and `params_axes`.
    """
    names = {
        (*path[:-1], path[-1].removesuffix("_axes")): axes.names
        for path, axes in traverse_util.flatten_dict(variables["params_axes"]).items()
    }
    params = traverse_util.flatten_dict(variables["params"])
    return traverse_util.unflatten_dict(
        {path: NamedSharding(mesh, _spec(names[path])) for path in params}
    )


def state_shardings(
    mesh: Mesh, optimizer: optax.GradientTransformation, params: Any, shardings: Any
) -> Any:
    """Returns the tree of shardings of `optimizer.init(params)`: like its parameter where the shapes agree, else replicated."""
    whole = replicated(mesh)
    abstract = jax.eval_shape(optimizer.init, params)
    return optax.tree.map_params(
        optimizer,
        lambda leaf, param, sharding: sharding if leaf.shape == param.shape else whole,
        abstract,
        params,
        shardings,
        transform_non_params=lambda _: whole,
    )


def _spec(logical_axes: Sequence[str]) -> PartitionSpec:
    rules = dict(LOGICAL_AXIS_RULES)
    return PartitionSpec(*(rules.get(name) for name in logical_axes))
