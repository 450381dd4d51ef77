"""The files of a Hugging Face folder that hold tensors: safetensors, whole or in shards, and PyTorch's own of every age.

`read` maps safetensors and PyTorch's newer files into memory, so that tensors cost none until they are used; PyTorch's are read by its
restricted unpickler, where PyTorch is installed. `write` takes one tensor after the other.
"""

import contextlib
import functools
import json
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from cotdistill_jax import files
from cotdistill_jax.checkpoints.stored import Index, StoredArray
from cotdistill_jax.files import write_json_atomically

Tensors = dict[str, Any]  # NumPy's arrays or `StoredArray`s

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# What wrappers put before every name: DataParallel, torch.compile, Lightning.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_WRAPPED_STATES = ("state_dict", "model_state_dict", "model", "module")


def read(folder: files.Path) -> Tensors:
    """Returns the tensors of a folder by name, without the prefixes of wrappers that all names share.

    Raises:
      FileNotFoundError: no file of weights, or a shard is missing.
      ValueError: a file is truncated or holds something else; the message names it.
    """
    return _without_wrappers(_read_files(folder))


def read_json(path: files.Path, what: str) -> Any:
    """Returns the content of a JSON file; `FileNotFoundError` says `what` was expected where there is none."""
    if not path.exists():
        raise FileNotFoundError(f"checkpoints: no {path}; expected {what}")
    return files.read_json(path, "checkpoints")


def _without_wrappers(tensors: Tensors) -> Tensors:
    """Returns the tensors without the prefixes that all their names share."""
    for _ in range(len(_WRAPPERS)):
        for prefix in _WRAPPERS:
            if tensors and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _read_files(folder: files.Path) -> Tensors:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    old, old_index = folder / "pytorch_model.bin", folder / "pytorch_model.bin.index.json"
    if single.exists():
        return _read_safetensors(single)
    if index.exists():
        return _read_shards(index, _read_safetensors)
    if old.exists():
        return _read_pickle(old)
    if old_index.exists():
        return _read_shards(old_index, _read_pickle)
    looked = ", ".join(path.name for path in (single, index, old, old_index))
    raise FileNotFoundError(f"checkpoints: {folder} holds no weights; looked for {looked}")


def _read_shards(index: files.Path, reader: Any) -> Tensors:
    placed: dict[str, str] = read_json(index, "an index of shards")["weight_map"]
    tensors: Tensors = {}
    for file in sorted(set(placed.values())):
        found = reader(index.parent / file)
        lost = sorted(name for name, at in placed.items() if at == file and name not in found)
        if lost:
            raise ValueError(
                f"checkpoints: {index.parent / file} lacks {lost[:8]}, which {index.name} puts there"
            )
        tensors |= found
    return tensors


def _read_safetensors(path: files.Path) -> Tensors:
    """Returns the tensors of one file: views of the mapped file, or stored in a bucket."""
    if not path.exists():
        raise FileNotFoundError(f"checkpoints: {path} is missing, though the index names it")
    if isinstance(path, files.BucketPath):
        return _stored_safetensors(path)
    size = path.stat().st_size
    if size:
        files.refuse_foreign_content(path, "checkpoints", "safetensors")
    length = struct.unpack("<Q", path.open("rb").read(8))[0] if size >= 8 else 0
    if size < 8 + length or length == 0:
        raise ValueError(f"checkpoints: {path} is truncated: {size} bytes, header of {length}")
    with path.open("rb") as file:
        file.seek(8)
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != expected:
        raise ValueError(f"checkpoints: {path} is truncated: {size} bytes, expected {expected}")
    data = np.memmap(path, np.uint8, mode="r", offset=8 + length)
    tensors: Tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(
                f"checkpoints: {path}: {name} has dtype {entry['dtype']}; supported are {sorted(_DTYPES)}"
            )
        first, last = entry["data_offsets"]
        tensors[name] = data[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def _stored_safetensors(path: files.BucketPath) -> Tensors:
    """Returns the tensors of a file in a bucket, each read when it is asked for, by rows where only some are."""
    files.refuse_foreign_content(path, "checkpoints", "safetensors")
    length = struct.unpack("<Q", path.read_head(8).ljust(8, b"\0"))[0]
    header = json.loads(path.read_range(8, 8 + length)) if length else {}
    header.pop("__metadata__", None)
    tensors: Tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(
                f"checkpoints: {path}: {name} has dtype {entry['dtype']}; supported are {sorted(_DTYPES)}"
            )
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        start = 8 + length + entry["data_offsets"][0]
        read = functools.partial(_read_rows, path, start, dtype, shape)
        tensors[name] = StoredArray(shape, dtype, read)
    return tensors


def _read_rows(
    path: files.BucketPath, start: int, dtype: np.dtype, shape: tuple[int, ...], index: Index
) -> np.ndarray:
    first, last, _ = index[0].indices(shape[0]) if index else (0, shape[0] if shape else 1, 1)
    row = int(np.prod(shape[1:])) * dtype.itemsize
    content = path.read_range(start + first * row, start + last * row)
    rows = np.frombuffer(content, dtype).reshape((last - first, *shape[1:]) if shape else ())
    return rows[(slice(None), *index[1:])] if index else rows


def _read_pickle(path: files.Path) -> Tensors:
    """Returns the tensors of an old PyTorch file, read by its restricted unpickler."""
    path = files.local_path(path, "checkpoints", "a PyTorch pickle")
    if not path.exists():
        raise FileNotFoundError(f"checkpoints: {path} is missing, though the index names it")
    files.refuse_foreign_content(path, "checkpoints", "PyTorch weights", archive="zip")
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"checkpoints: {path} is a PyTorch pickle, which only PyTorch reads safely; "
            "`pip install torch`, or save the model as safetensors"
        ) from error
    # Files since PyTorch 1.6 are zip archives and can be mapped, older ones are plain pickles.
    mapped = zipfile.is_zipfile(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoints: {path} holds more than tensors, so reading it could run code; "
            "save the model as safetensors"
        ) from error
    except (RuntimeError, EOFError, KeyError, AttributeError) as error:
        raise ValueError(
            f"checkpoints: {path} is damaged or no PyTorch file ({type(error).__name__}: {str(error)[:200]}); fetch it again"
        ) from error
    for name in _WRAPPED_STATES:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping):
        raise ValueError(
            f"checkpoints: {path} holds {type(loaded).__name__}, expected tensors by name; save model.state_dict()"
        )
    others = [name for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f"checkpoints: {path} holds more than tensors: {others[:8]}; save model.state_dict() alone"
        )
    return _as_arrays(loaded)


def _as_arrays(loaded: Mapping[str, Any]) -> Tensors:
    """Returns PyTorch's tensors as arrays that are read as float32; names of one tensor share one array."""
    arrays: dict[tuple[Any, ...], StoredArray] = {}
    return {
        name: arrays.setdefault(
            (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype),
            StoredArray(
                tuple(tensor.shape),
                np.dtype(np.float32),
                functools.partial(_read_tensor, tensor.detach()),
            ),
        )
        for name, tensor in loaded.items()
    }


def _read_tensor(tensor: Any, index: Index) -> np.ndarray:
    part: np.ndarray = tensor[index].float().numpy()
    return part


def write(
    folder: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    ours: Mapping[str, Any],
    names: Mapping[str, tuple[str, bool]],
    max_shard_bytes: int,
) -> None:
    """Writes float32 tensors as safetensors, in place of those that a folder has.

    Args:
      folder: existing folder.
      shapes: by name in the file.
      ours: arrays by our names, in the order in which they are read.
      names: per name of ours the one in the file, and whether it is transposed there.
      max_shard_bytes: size from which on there are several files and an index.
    """
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    shards = _split(shapes, max_shard_bytes)
    names_of_files = [
        f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)
    ]
    if len(shards) == 1:
        names_of_files = ["model.safetensors"]
    placed = {name: i for i, shard in enumerate(shards) for name in shard}
    partial = [folder / f"{file}.part" for file in names_of_files]
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(path.open("wb")) for path in partial]
        starts = [_write_header(opened[i], shard, shapes) for i, shard in enumerate(shards)]
        # In the order of the source, whose neighbours may lie in one stored array.
        for source, array in ours.items():
            name, transposed = names[source]
            at = placed[name]
            opened[at].seek(starts[at][name])
            tensor = np.asarray(array, "<f4")
            opened[at].write(np.ascontiguousarray(tensor.T if transposed else tensor).data)
    for path, file in zip(partial, names_of_files, strict=True):
        path.replace(folder / file)
    if len(shards) > 1:
        total = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        weight_map = {name: names_of_files[i] for name, i in placed.items()}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json_atomically(folder / "model.safetensors.index.json", index)


def _split(shapes: Mapping[str, tuple[int, ...]], max_bytes: int) -> list[list[str]]:
    """Returns the tensor names in groups of at most `max_bytes` float32 bytes (or one tensor)."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _write_header(
    file: BinaryIO, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Writes the header of a file of float32 tensors; returns where in the file each of them starts."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        end = offset + 4 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(struct.pack("<Q", len(encoded)) + encoded)
    return {name: 8 + len(encoded) + header[name]["data_offsets"][0] for name in names}
