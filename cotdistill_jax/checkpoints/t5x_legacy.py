"""T5X checkpoints -> trees of arrays, without T5X; and back, in T5X's legacy layout.

    checkpoint_N/checkpoint                         msgpack index (legacy), or the whole tree with inline arrays
    checkpoint_N/target.encoder.encoder_norm.scale/ one zarr array per large tensor (legacy)
    checkpoint_N/state/                             Orbax layout, what newer T5X and our runner write (orbax_layout.py)

The index is `{"version", "optimizer": {"target": parameters, "state": {"step", "param_states"}}}`, its leaves inline
arrays or TensorStore specs. Checkpoints written at Google name the file system `gfile` and sometimes absolute paths:
only the last part of a path is used, below the folder that is being read. Folders may be local or `gs://`.

Public FlanT5 checkpoints: `gs://t5-data/pretrained_models/t5x/flan_t5_{small/checkpoint_1198000,
base/checkpoint_1184000, large/checkpoint_1164000, xl/checkpoint_1138000, xxl/checkpoint_1114000}`.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts
from flax import serialization, traverse_util

from cotdistill_jax import files, network
from cotdistill_jax.checkpoints import orbax_layout, stored

INDEX_FILE = "checkpoint"
_PREFIX = "checkpoint_"
_BEGUN, _COMMITTED = "_CHECKPOINT_METADATA", "commit_success.txt"


def open_leaves(path: str, prefix: str) -> dict[str, Any]:
    """Returns the arrays below a name of a T5X checkpoint's tree, by their names in it; nothing is read yet.

    Args:
      path: a `checkpoint_N` folder in either layout, or a single-file legacy checkpoint; local or `gs://`.
      prefix: "target" for the parameters, "state" for the step and the optimizer's state, or a part of them, such as
        "state/step".

    Returns:
      `stored.StoredArray`s; arrays that lie inline in the index are NumPy's.

    Raises:
      FileNotFoundError: there is no checkpoint at `path`, or arrays that its index names are missing (listed).
      ValueError: the index is truncated, or nothing has that name.
    """
    folder = stored.open_folder(path)
    index = _read_index(folder, path)
    if index is None:
        found = orbax_layout.open_leaves(folder, path, prefix)
        if found is None:
            raise FileNotFoundError(
                f"checkpoints: {path} holds neither {INDEX_FILE!r} (legacy) nor 'state' (Orbax); "
                "name a checkpoint_N folder"
            )
        return found
    leaves = _leaves(index, prefix, path)
    specs = {
        name: {"driver": "zarr", "kvstore": (folder / _array_folder(leaf)).spec().to_json()}
        for name, leaf in leaves.items()
        if _is_array_spec(leaf)
    }
    arrays = stored.open_arrays(specs, path)
    return {name: arrays[name] if name in arrays else np.asarray(leaves[name]) for name in leaves}


def open_tree(path: str, subtree: str = "target") -> dict[str, Any]:
    """Returns a subtree, "target" or "state", as a nested dict of what `open_leaves` returns, with its exceptions."""
    leaves = open_leaves(path, subtree)
    tree: dict[str, Any] = traverse_util.unflatten_dict(leaves, sep="/")
    return dict(tree[subtree])


def read(path: str, subtree: str = "target") -> dict[str, Any]:
    """Returns a subtree as a nested dict of NumPy arrays, with the exceptions of `open_leaves`."""
    return stored.materialise(open_tree(path, subtree))


def step_of(path: str) -> int:
    """Returns the training step that a checkpoint records, with the exceptions of `open_leaves`."""
    (step,) = open_leaves(path, "state/step").values()
    return int(np.asarray(step))


def write(path: str, params: Mapping[str, Any], step: int = 0) -> None:
    """Writes a legacy checkpoint that T5X and `read` restore: parameters and step, no optimizer state.

    Every tensor becomes a zarr array of one chunk, written one after the other; the index comes last, so that an
    interrupted write is not taken for a checkpoint.

    Args:
      path: the `checkpoint_N` folder to make; local or `gs://`.
      params: nested dict of float arrays, stored as float32.
      step: training step to record.
    """
    store = stored.open_folder(path)
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
    store = stored.open_folder(folder)
    found: dict[int, set[str]] = {}
    for key in store.list().result():
        step_folder, _, inside = key.decode().partition("/")
        step = step_folder.removeprefix(_PREFIX)
        if step_folder.startswith(_PREFIX) and step.isdigit():
            found.setdefault(int(step), set()).add(inside)
    # Orbax renames what is whole; in a bucket nothing can be renamed, so that a file says that it is.
    whole = {INDEX_FILE, _COMMITTED if files.is_remote(folder) else _BEGUN}
    for number in sorted(found, reverse=True):
        if found[number] & whole:
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


def _read_index(folder: ts.KvStore, path: str) -> dict[str, Any] | None:
    """Returns the unpacked index, or None where the folder has none."""
    local = files.as_path(path)
    single = isinstance(local, pathlib.Path) and local.is_file()
    packed = stored.read_file(folder, "" if single else INDEX_FILE)
    if packed is None:
        return None
    try:
        index: dict[str, Any] = serialization.msgpack_restore(packed)
    except (msgpack.exceptions.UnpackException, ValueError) as error:
        raise ValueError(
            f"checkpoints: the index of {path} is truncated or not msgpack ({len(packed)} bytes): {error}"
        ) from error
    return index


def _leaves(index: Mapping[str, Any], prefix: str, path: str) -> dict[str, Any]:
    """Returns the arrays and array specs below a name of a legacy index, by name."""
    tree = index.get("optimizer", index)
    flat = traverse_util.flatten_dict(tree, sep="/", is_leaf=lambda _, node: _is_array_spec(node))
    found = {name: leaf for name, leaf in flat.items() if f"{name}/".startswith(f"{prefix}/")}
    if not found:
        raise ValueError(
            f"checkpoints: {path} has no {prefix!r} in its index; it has {sorted(tree)}"
        )
    return found


def _is_array_spec(node: Any) -> bool:
    return isinstance(node, Mapping) and {"driver", "kvstore"} <= node.keys()


def _array_folder(spec: Mapping[str, Any]) -> str:
    path: str = spec["kvstore"].get("path") or spec["path"]
    return path.rstrip("/").rsplit("/", 1)[-1] + "/"
