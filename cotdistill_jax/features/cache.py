"""SeqIO's offline cache, written without Apache Beam.

Leaves the files that SeqIO's own tool leaves, so that `use_cached=True` reads them (T5X:
`--seqio_additional_cache_dirs=DIR`):

    DIR/{task}/{split}.tfrecord-00000-of-00002 ...   examples as they leave the preprocessors before
                                                     `seqio.CacheDatasetPlaceholder`
    DIR/{task}/info.{split}.json                     shapes and dtypes
    DIR/{task}/stats.{split}.json                    number of examples, tokens per feature
    DIR/{task}/COMPLETED                             written last: a cache without it is not used
"""

import contextlib
import json
from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from cotdistill_jax import files


def write_cache(task_name: str, cache_dir: files.AnyPath, num_shards: int = 2) -> dict[str, int]:
    """Returns the number of examples written for every split of a task.

    Args:
        task_name: A registered task with a `seqio.CacheDatasetPlaceholder`.
        cache_dir: Folder of all caches; the task gets its own folder in it.
        num_shards: Files per split; at least as many as hosts will read it.

    Raises:
        ValueError: If the task has no cache placeholder, a split has no example, or SeqIO would read the folder's name as a pattern.
        FileExistsError: If the task is already cached there.
    """
    files.refuse_pattern(str(cache_dir), "features", "cache folder", "SeqIO")
    task = seqio.get_mixture_or_task(task_name)
    if not getattr(task, "supports_caching", False):
        raise ValueError(
            f"features: {task_name} cannot be cached: it is a mixture or has no "
            "seqio.CacheDatasetPlaceholder among its preprocessors. Cache the tasks of a mixture one by one."
        )
    task_dir = files.as_path(cache_dir) / seqio.get_task_dir_from_name(task_name)
    completed = task_dir / "COMPLETED"
    if completed.exists():
        raise FileExistsError(
            f"features: {task_name} is already cached in {task_dir}. Remove that folder to cache it again."
        )
    task_dir.mkdir(parents=True, exist_ok=True)
    counts = {split: _write_split(task, split, task_dir, num_shards) for split in task.splits}
    files.write_atomically(completed, b"")
    return counts


def _write_split(task: seqio.Task, split: str, task_dir: files.Path, num_shards: int) -> int:
    """Returns the number of examples of `split`, written to `task_dir`."""
    source = task.source.get_dataset(split=split, shuffle=False)
    dataset = task.preprocess_precache(source, seed=0)
    names = [
        str(task_dir / f"{split}.tfrecord-{shard:05d}-of-{num_shards:05d}")
        for shard in range(num_shards)
    ]
    stats: dict[str, int] = {"examples": 0}
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(tf.io.TFRecordWriter(name)) for name in names]
        for index, example in enumerate(dataset.as_numpy_iterator()):
            writers[index % num_shards].write(seqio.dict_to_tfexample(example).SerializeToString())
            _count(example, task.output_features, stats)
    if not stats["examples"]:
        raise ValueError(f"features: task {task.name} has no example in split {split!r}")
    info = {
        "num_shards": num_shards,
        "features": dict(_feature_infos(dataset.element_spec)),
        "seqio_version": seqio.__version__,
    }
    (task_dir / f"info.{split}.json").write_text(json.dumps(info))
    (task_dir / f"stats.{split}.json").write_text(json.dumps(stats))
    return stats["examples"]


def _feature_infos(spec: Mapping[str, tf.TensorSpec]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields name, and shape and dtype as SeqIO's cache reader expects them, of every feature."""
    for name, feature in spec.items():
        shape = feature.shape.as_list()
        yield name, {"shape": [None, *shape[1:]] if shape else [], "dtype": feature.dtype.name}


def _count(
    example: Mapping[str, np.ndarray],
    output_features: Mapping[str, seqio.Feature],
    stats: dict[str, int],
) -> None:
    """Adds `example` to `stats`: examples, and tokens of the rank-1 output features."""
    stats["examples"] += 1
    for name, feature in output_features.items():
        if feature.rank == 1 and name in example:
            tokens = len(example[name])
            stats[f"{name}_tokens"] = stats.get(f"{name}_tokens", 0) + tokens
            stats[f"{name}_max_tokens"] = max(stats.get(f"{name}_max_tokens", 0), tokens)
