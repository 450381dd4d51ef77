"""The Orbax layout, one tensor at a time: what our runner and newer T5X write into `checkpoint_N/state`.

    state/_METADATA        JSON: names of the tree, whether zarr 3
    state/manifest.ocdbt   OCDBT: all arrays in one key-value store, `target.encoder.encoder_norm.scale/.zarray`, ...
    state/target.encoder.encoder_norm.scale/   without OCDBT: one zarr array per name
    state/checkpoint       before Orbax had `_METADATA`: msgpack, its leaves inline arrays or `PLACEHOLDER://name`

It is read through TensorStore rather than Orbax, which restores whole trees, and reads the JSON of a `gs://` folder
through TensorFlow or gcsfs. It is written by Orbax, which is handed one tensor after the other.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

from cotdistill_jax import files
from cotdistill_jax.checkpoints import stored

STATE = "state"
_DESCRIPTION, _AGGREGATE, _MANIFEST = "_METADATA", "checkpoint", "manifest.ocdbt"
_PLACEHOLDER = "PLACEHOLDER://"


def open_leaves(folder: ts.KvStore, where: str, prefix: str) -> dict[str, Any] | None:
    """Returns the arrays below a name of the tree, by their names in it; None where this isn't the layout.

    Args:
      folder: a `checkpoint_N` folder.
      where: the same, for messages.
      prefix: such as "target" or "state/step".

    Raises:
      FileNotFoundError: arrays lack data; the message lists them.
      ValueError: the description is damaged, or nothing has that name.
    """
    store = folder / f"{STATE}/"
    tree = _described(store, where)
    if tree is None:
        return None
    names, driver = tree
    ocdbt = stored.read_file(store, _MANIFEST) is not None
    wanted = {
        name: leaf
        for name, leaf in names.items()
        if f"{name}/".startswith(f"{prefix.rstrip('/')}/")
    }
    if not wanted:
        tops = sorted({name.split("/")[0] for name in names})
        raise ValueError(f"checkpoints: {where} has no {prefix!r}; it has {tops}")
    base = store.spec().to_json()
    specs: dict[str, Any] = {}
    for name, leaf in wanted.items():
        if isinstance(leaf, str):
            at: Any = {"driver": "ocdbt", "base": base, "path": f"{leaf}/"}
            at = at if ocdbt else (store / f"{leaf}/").spec().to_json()
            specs[name] = {"driver": driver, "kvstore": at}
    arrays = stored.open_arrays(specs, where)
    return {name: arrays.get(name, leaf) for name, leaf in wanted.items()}


def _described(store: ts.KvStore, where: str) -> tuple[dict[str, Any], str] | None:
    """Returns, per name in the tree, its name on disk or the array itself; and TensorStore's driver."""
    described = stored.read_file(store, _DESCRIPTION)
    if described is None:
        aggregate = stored.read_file(store, _AGGREGATE)
        if aggregate is None:
            return None
        tree = traverse_util.flatten_dict(serialization.msgpack_restore(aggregate), sep="/")
        leaves = {
            name: leaf.removeprefix(_PLACEHOLDER) if isinstance(leaf, str) else np.asarray(leaf)
            for name, leaf in tree.items()
        }
        return leaves, "zarr"
    try:
        content = json.loads(described)
        entries = content["tree_metadata"].values()
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"checkpoints: {where}/{STATE}/{_DESCRIPTION} is truncated or damaged ({len(described)} bytes): {error}; "
            "copy the folder again"
        ) from error
    keys = [
        [str(step["key"]) for step in entry["key_metadata"]]
        for entry in entries
        if not entry["value_metadata"].get("skip_deserialize")
    ]
    driver = "zarr3" if content.get("use_zarr3") else "zarr"
    return {"/".join(key): ".".join(key) for key in keys}, driver


class _OneByOne(ocp.type_handlers.NumpyHandler):
    """Writes stored arrays as Orbax writes NumPy's, each before the next one is read."""

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[Any],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> list[Any]:
        """Returns no futures, as everything is written."""
        for value, info, arg in zip(values, infos, args or [None] * len(values), strict=True):
            array = np.ascontiguousarray(value)
            for writing in await super().serialize([array], [info], arg and [arg]):
                writing.result()
        return []


def write(folder: str, prefix: str, tree: Mapping[str, Any], step: int) -> None:
    """Writes `checkpoint_N` with its item `state`, as a run's own.

    Args:
      folder: the run folder.
      prefix: "checkpoint", before the step in its name.
      tree: nested dict, `{"target", "state"}`, whose arrays are NumPy's or `StoredArray`s.
      step: N.
    """
    where = str(files.as_path(folder).absolute())
    files.refuse_pattern(where, "checkpoints", "checkpoint folder", "Orbax")
    one_by_one = _OneByOne(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry(
        (stored.StoredArray, one_by_one),
        (np.ndarray, one_by_one),
        (np.number, ocp.type_handlers.ScalarHandler()),
    )
    options = ocp.CheckpointManagerOptions(step_prefix=prefix, enable_async_checkpointing=False)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.CheckpointManager(
        epath.Path(where), options=options, item_handlers={STATE: handler}
    ) as manager:
        manager.save(step, args=ocp.args.Composite(**{STATE: ocp.args.PyTreeSave(dict(tree))}))
