"""Public T5X checkpoints -> nested dicts of numpy arrays, without T5X; and back, in T5X's legacy layout.

    checkpoint_N/checkpoint                         msgpack index (legacy), or the whole tree with inline arrays
    checkpoint_N/target.encoder.encoder_norm.scale/ one zarr array per large tensor (legacy)
    checkpoint_N/state/                             Orbax layout, what newer T5X and our runner write

The index is `{"version", "optimizer": {"target": parameters, "state": {"step", "param_states"}}}`, its leaves inline
arrays or TensorStore specs. Checkpoints written at Google name the file system `gfile` and sometimes absolute paths:
only the last part of a path is used, below the folder that is being read. Folders may be local or `gs://`.

Public FlanT5 checkpoints: `gs://t5-data/pretrained_models/t5x/flan_t5_{small/checkpoint_1198000,
base/checkpoint_1184000, large/checkpoint_1164000, xl/checkpoint_1138000, xxl/checkpoint_1114000}`.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import serialization, traverse_util

from cotdistill_jax import network

INDEX_FILE = "checkpoint"
_PREFIX = "checkpoint_"


def read(path: str, subtree: str = "target") -> dict[str, Any]:
    """Returns one subtree of a T5X checkpoint as a nested dict of numpy arrays.

    Args:
      path: a `checkpoint_N` folder in either layout, or a single-file legacy checkpoint; local or `gs://`.
      subtree: "target" for the parameters, "state" for the step and the optimizer's state.

    Raises:
      FileNotFoundError: there is no checkpoint at `path`, or arrays that its index names are missing (listed).
      ValueError: the index or an array is truncated, or there is no such subtree.
    """
    store = _open(path)
    index = _read_index(store, path)
    if index is None:
        return _read_orbax(path, subtree)
    flat = _leaves(index, subtree, path)
    _check_arrays_exist(store, flat, path)
    arrays = {name: _read_leaf(store, leaf, path) for name, leaf in flat.items()}
    return traverse_util.unflatten_dict(arrays, sep="/")


def shapes(path: str, subtree: str = "target") -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the arrays that `read` would return, without reading them.

    Args:
      path: as for `read`.
      subtree: as for `read`.

    Example: `shapes("flan_t5_small/checkpoint_1198000")["encoder/encoder_norm/scale"]` is `(512,)`.

    Raises:
      FileNotFoundError: there is no checkpoint at `path`.
      ValueError: the index is truncated, or there is no such subtree.
    """
    index = _read_index(_open(path), path)
    if index is None:
        with ocp.PyTreeCheckpointer() as checkpointer:
            leaves = traverse_util.flatten_dict(
                _orbax_metadata(checkpointer, path, subtree), sep="/"
            )
    else:
        leaves = _leaves(index, subtree, path)
    return {name: _shape(leaf) for name, leaf in leaves.items()}


def write(path: str, params: Mapping[str, Any], step: int = 0) -> None:
    """Writes a legacy checkpoint that T5X and `read` restore: parameters and step, no optimizer state.

    Every tensor becomes a zarr array of one chunk, written one after the other; the index comes last, so that an
    interrupted write is not taken for a checkpoint.

    Args:
      path: the `checkpoint_N` folder to make; local or `gs://`.
      params: nested dict of float arrays, stored as float32.
      step: training step to record.
    """
    store = _open(path)
    index: dict[str, Any] = {}
    for name, value in traverse_util.flatten_dict(dict(params), sep="/").items():
        array = np.asarray(value, np.float32)
        metadata = {
            "chunks": list(array.shape),
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(array.shape),
        }
        folder = "target." + name.replace("/", ".") + "/"
        spec = {
            "driver": "zarr",
            "kvstore": (store / folder).spec().to_json(),
            "metadata": {**metadata, "dtype": "<f4"},
            "create": True,
            "delete_existing": True,
            "store_data_equal_to_fill_value": True,
        }
        ts.open(spec).result().write(array).result()
        index[f"target/{name}"] = {
            "driver": "zarr",
            "dtype": "float32",
            "kvstore": {"driver": "file", "path": folder},
            "metadata": metadata,
        }
    tree = traverse_util.unflatten_dict(index, sep="/")
    tree["state"] = {"step": np.int32(step)}
    packed = serialization.msgpack_serialize({"version": 3, "optimizer": tree})
    store.write(INDEX_FILE, packed).result()


def latest(folder: str) -> str:
    """Returns the path of the newest whole `checkpoint_N` in a folder; half-written steps are passed over.

    Raises:
      FileNotFoundError: there is no whole checkpoint.
    """
    store = _open(folder)
    found: dict[int, set[str]] = {}
    for key in store.list().result():
        step_folder, _, inside = key.decode().partition("/")
        step = step_folder.removeprefix(_PREFIX)
        if step_folder.startswith(_PREFIX) and step.isdigit():
            found.setdefault(int(step), set()).add(inside)
    for number in sorted(found, reverse=True):
        if found[number] & {INDEX_FILE, "_CHECKPOINT_METADATA"}:
            return f"{folder.rstrip('/')}/{_PREFIX}{number}"
    raise FileNotFoundError(
        f"checkpoints: {folder} holds no whole checkpoint_N; half-written steps: {sorted(found)}"
    )


def infer_config(params: Mapping[str, Any], dtype: str = "float32") -> network.T5Config:
    """Returns the dimensions of the T5 that a parameter tree belongs to.

    Args:
      params: nested dict of arrays with the names of `network.Transformer`, not scanned.
      dtype: activation type of the returned config.

    Raises:
      ValueError: the tree is not that of a T5; the message says which parameter is missing.
    """
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    shapes = {name: tuple(leaf.shape) for name, leaf in flat.items()}

    def layers(stack: str) -> int:
        starts = {name.split("/")[1] for name in shapes if name.startswith(f"{stack}/layers_")}
        return len(starts)

    try:
        vocab_size, emb_dim = shapes["token_embedder/embedding"]
        num_heads, relative_buckets = shapes["encoder/relpos_bias/rel_embedding"]
        joined = shapes["encoder/layers_0/attention/query/kernel"][1]
        mlp_dim = shapes["encoder/layers_0/mlp/wo/kernel"][0]
    except KeyError as error:
        raise ValueError(
            f"checkpoints: no {error.args[0]} among the {len(shapes)} parameters; expected T5X's T5 tree"
        ) from error
    gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
    return network.T5Config(
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=num_heads,
        head_dim=joined // num_heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=layers("encoder"),
        num_decoder_layers=layers("decoder"),
        dtype=dtype,
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
        relative_buckets=relative_buckets,
    )


def _open(path: str) -> ts.KvStore:
    """Returns the key-value store of all files below a local or `gs://` folder."""
    if path.startswith("gs://"):
        return ts.KvStore.open(path.rstrip("/") + "/").result()
    local = pathlib.Path(path).absolute()
    if not local.is_file():
        return ts.KvStore.open({"driver": "file", "path": f"{local}/"}).result()
    return ts.KvStore.open({"driver": "file", "path": str(local)}).result()


def _read_index(store: ts.KvStore, path: str) -> dict[str, Any] | None:
    """Returns the unpacked index, or None where the folder is in the Orbax layout."""
    single = not path.startswith("gs://") and pathlib.Path(path).is_file()
    packed = store.read("" if single else INDEX_FILE).result()
    if packed.state != "value":
        if store.read("_CHECKPOINT_METADATA").result().state == "value":
            return None
        raise FileNotFoundError(
            f"checkpoints: {path} holds neither {INDEX_FILE!r} (legacy) nor '_CHECKPOINT_METADATA' (Orbax); "
            "name a checkpoint_N folder"
        )
    try:
        index: dict[str, Any] = serialization.msgpack_restore(packed.value)
    except (msgpack.exceptions.UnpackException, ValueError) as error:
        raise ValueError(
            f"checkpoints: the index of {path} is truncated or not msgpack ({len(packed.value)} bytes): {error}"
        ) from error
    return index


def _leaves(index: Mapping[str, Any], subtree: str, path: str) -> dict[str, Any]:
    """Returns the arrays and array specs of a subtree of a legacy index, by name."""
    tree = index.get("optimizer", index)
    if not tree.get(subtree):
        raise ValueError(
            f"checkpoints: {path} has no {subtree!r} in its index; it has {sorted(tree)}"
        )
    return traverse_util.flatten_dict(
        tree[subtree], sep="/", is_leaf=lambda _, node: _is_array_spec(node)
    )


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf["metadata"]["shape"] if _is_array_spec(leaf) else np.shape(leaf))


def _is_array_spec(node: Any) -> bool:
    return isinstance(node, Mapping) and {"driver", "kvstore"} <= node.keys()


def _array_folder(spec: Mapping[str, Any]) -> str:
    path: str = spec["kvstore"].get("path") or spec["path"]
    return path.rstrip("/").rsplit("/", 1)[-1] + "/"


def _check_arrays_exist(store: ts.KvStore, flat: Mapping[str, Any], path: str) -> None:
    """Raises for arrays without data: TensorStore would read their missing chunks as zeros."""
    wanted = {_array_folder(leaf): name for name, leaf in flat.items() if _is_array_spec(leaf)}
    if not wanted:
        return
    counts = dict.fromkeys(wanted, 0)
    for key in store.list().result():
        folder, _, file = key.decode().partition("/")
        if folder + "/" in counts and file:
            counts[folder + "/"] += 1
    lost = sorted(wanted[folder] for folder, count in counts.items() if count < 2)
    if lost:
        raise FileNotFoundError(
            f"checkpoints: {path} is incomplete: {len(lost)} of {len(wanted)} arrays have no data: "
            f"{', '.join(lost[:8])}; copy the folder again"
        )


def _read_leaf(store: ts.KvStore, leaf: Any, path: str) -> np.ndarray:
    if not _is_array_spec(leaf):
        return np.asarray(leaf)
    folder = _array_folder(leaf)
    spec = {"driver": "zarr", "kvstore": (store / folder).spec().to_json()}
    try:
        array: np.ndarray = ts.open(spec, read=True, open=True).result().read().result()
    except ValueError as error:
        raise ValueError(
            f"checkpoints: array {folder[:-1]} of {path} is damaged: {error}; copy it again"
        ) from error
    return array


def _orbax_folder(path: str) -> str:
    state = path.rstrip("/") + "/state"
    return state if path.startswith("gs://") else str(pathlib.Path(state).absolute())


def _orbax_metadata(
    checkpointer: ocp.PyTreeCheckpointer, path: str, subtree: str
) -> dict[str, Any]:
    """Returns one subtree of `ShapeDtypeStruct`s."""
    tree = checkpointer.metadata(_orbax_folder(path)).item_metadata.tree
    if subtree not in tree:
        raise ValueError(f"checkpoints: {path} has no {subtree!r}; it has {sorted(tree)}")
    found: dict[str, Any] = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree[subtree]
    )
    return found


def _read_orbax(path: str, subtree: str) -> dict[str, Any]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        item = {subtree: _orbax_metadata(checkpointer, path, subtree)}
        arguments = ocp.args.PyTreeRestore(
            item=item,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item),
            partial_restore=True,
        )
        restored: dict[str, Any] = checkpointer.restore(_orbax_folder(path), arguments)[subtree]
        return restored
