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
DECODING_RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    ("batch", "data"),
    *LOGICAL_AXIS_RULES[1:],
)
"""Of activations in decoding: split along D over fsdp, like the parameters, so that none of these are gathered.

A token's activations are far smaller than the parameters; and as these don't change, XLA would gather all of them before the loop.
"""


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


STATE_BYTES = 16
"""Of a parameter in training: itself, its gradient and AdamW's two moments, in float32."""
WEIGHT_BYTES = 4
"""Of a parameter that is only read."""
_STATE_SHARE = 0.5  # of a device's memory, at most; the rest is for activations
_SHOWN_SHAPES = 6

Shape = tuple[int, int, int]


def choose_shape(
    num_devices: int,
    config: network.T5Config,
    num_parameters: int,
    batch_size: int | None,
    num_microbatches: int,
    memory_bytes: float | None,
    bytes_per_parameter: int = STATE_BYTES,
) -> tuple[Shape, str]:
    """Returns a shape (data, fsdp, model) for a network, a batch and a number of devices, and why.

    All devices along data where parameters and, in training, optimizer state take at most half of a device's memory; else no more fsdp than that
    needs; the model axis takes what neither the rows of a microbatch nor the width can take.

    Args:
      num_devices: how many there are.
      config: dimensions of the network.
      num_parameters: its parameters.
      batch_size: rows of an optimizer step; None: nothing has to divide them.
      num_microbatches: parts that they are cut into.
      memory_bytes: of one device; None: not known, and not asked.
      bytes_per_parameter: `STATE_BYTES`, or `WEIGHT_BYTES` where nothing is trained.

    Raises:
      ValueError: nothing divides; the message says which batches and microbatches would.

    Example: 2.85e9 parameters, 8 devices of 80 GB, 16 rows in 2 parts: (4, 2, 1).
    """
    shapes = fitting_shapes(num_devices, config, batch_size, num_microbatches)
    if not shapes:
        raise ValueError(
            f"mesh: no mesh of {num_devices} devices divides this network and {batch_size} rows in {num_microbatches} parts; "
            + _remedies(num_devices, batch_size, num_microbatches)
        )
    shapes.sort(key=lambda shape: (shape[2], shape[1]))
    state = num_parameters * bytes_per_parameter / 1e9
    small = [
        shape
        for shape in shapes
        if memory_bytes is None
        or state / (shape[1] * shape[2]) <= _STATE_SHARE * memory_bytes / 1e9
    ]
    chosen = small[0] if small else max(shapes, key=lambda shape: (shape[1] * shape[2], -shape[2]))
    what = "parameters and optimizer state" if bytes_per_parameter == STATE_BYTES else "parameters"
    why = f"{what} take {state / (chosen[1] * chosen[2]):,.1f} GB of a device"
    if memory_bytes is None:
        why += ", whose memory is not known"
    else:
        why += f"'s {memory_bytes / 1e9:,.1f} GB" + ("" if small else ", more than half, even so")
    rows = num_devices if batch_size is None else batch_size // num_microbatches
    if chosen[2] > 1 and rows < num_devices:
        why += (
            f"; a part of the batch has {rows} rows for {num_devices} devices, so the model axis takes the rest: "
            + _remedies(num_devices, batch_size, num_microbatches)
        )
    return chosen, why


def fitting_shapes(
    num_devices: int, config: network.T5Config, batch_size: int | None, num_microbatches: int
) -> list[Shape]:
    """Returns all shapes (data, fsdp, model) of so many devices that divide a network and a batch."""
    return [
        (data, fsdp, num_devices // data // fsdp)
        for data in _divisors(num_devices)
        for fsdp in _divisors(num_devices // data)
        if not _faults(
            (data, fsdp, num_devices // data // fsdp), config, batch_size, num_microbatches
        )
    ]


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _remedies(num_devices: int, batch_size: int | None, num_microbatches: int) -> str:
    """Returns in words which settings put all devices along data and fsdp."""
    if batch_size is None:
        return "take another number of devices"
    parts = [
        parts
        for parts in range(num_microbatches, 0, -1)
        if batch_size % parts == 0 and batch_size // parts % num_devices == 0
    ]
    if parts:
        return f"NUM_MICROBATCHES = {parts[0]} would put all of them along data or fsdp, with the same results (WEIGH_MICROBATCHES_ALIKE aside)"
    step = num_devices * num_microbatches
    up = -(-batch_size // step) * step
    down = f"{up - step} or " if up > step else ""
    return f"BATCH_SIZE = {down}{up} would put all of them along data or fsdp"


def device_memory() -> int | None:
    """Returns the bytes of a device's memory that JAX may use, None where it does not say (CPUs)."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit")


def num_row_shards(mesh: Mesh) -> int:
    """Returns into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every [B, ...] array of a batch: split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


@contextlib.contextmanager
def constrained_activations(
    mesh: Mesh, rules: Sequence[tuple[str, Any]] = LOGICAL_AXIS_RULES
) -> Iterator[None]:
    """Lets the network's sharding constraints take hold in what is traced inside.

    Without it they are skipped, and XLA lays activations out as it likes: with fsdp > 1 along D, like the parameters, so that
    whole activations, larger than the parameters, travel between devices.
    """
    if mesh.size == 1:
        yield
        return
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        flax_partitioning.axis_rules(rules),
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
    shape = (sizes["data"], sizes["fsdp"], sizes["model"])
    faults = _faults(shape, config, batch_size, num_microbatches)
    if not faults:
        return
    fitting = fitting_shapes(math.prod(shape), config, batch_size, num_microbatches)
    remedy = (
        f"MESH_SHAPE = None chooses; (data, fsdp, model) that divide: {', '.join(map(str, fitting[:_SHOWN_SHAPES]))}"
        if fitting
        else f"no mesh of {math.prod(shape)} devices does: "
        + _remedies(math.prod(shape), batch_size, num_microbatches)
    )
    raise ValueError(f"mesh {sizes}: not divisible: {'; '.join(faults)}; {remedy}")


def _faults(
    shape: Shape, config: network.T5Config, batch_size: int | None, num_microbatches: int
) -> list[str]:
    """Returns each quantity that a mesh (data, fsdp, model) does not divide, with its size and the axis."""
    data, fsdp, model = shape
    rows = data * fsdp
    quantities = {
        ("model", model): {
            "vocab_size": config.vocab_size,
            "num_heads": config.num_heads,
            "num_heads * head_dim": config.num_heads * config.head_dim,
            "mlp_dim": config.mlp_dim,
        },
        ("fsdp", fsdp): {"emb_dim": config.emb_dim},
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
    return faults


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
