"""Caches written here are read by SeqIO and give the same examples."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import seqio

from cotdistill_jax import features

EOS = seqio.preprocessors.append_eos
AFTER_CACHE = [EOS, features.append_teacher_eos, features.check_teacher, features.guard_lengths]


@pytest.fixture
def cache_dir(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that SeqIO looks for caches in, during one test."""
    before = seqio.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(tmp_path)])
    yield tmp_path
    seqio.set_global_cache_dirs(before)


@pytest.fixture
def task(
    register: Callable[..., str], make_examples: Callable[..., list[dict[str, Any]]]
) -> seqio.Task:
    """A task with two splits whose raw examples are cached."""
    name = register(
        "cache_task",
        make_examples(20),
        [seqio.CacheDatasetPlaceholder(), *AFTER_CACHE],
        splits=("train", "validation"),
    )
    return seqio.get_mixture_or_task(name)


def _examples(task: seqio.Task, use_cached: bool) -> list[tuple[Any, ...]]:
    dataset = task.get_dataset(
        {"inputs": 12, "targets": 12}, split="train", shuffle=False, use_cached=use_cached
    )
    return sorted(
        tuple(
            (name, value.tobytes())
            for name, value in sorted(example.items())
            if name != "question_id"
        )
        for example in dataset.as_numpy_iterator()
    )


def test_cached_equals_direct(task: seqio.Task, cache_dir: pathlib.Path) -> None:
    assert features.write_cache(task.name, cache_dir, num_shards=3) == {
        "train": 20,
        "validation": 20,
    }
    assert sorted(path.name for path in (cache_dir / "cache_task").iterdir()) == [
        "COMPLETED",
        "info.train.json",
        "info.validation.json",
        "stats.train.json",
        "stats.validation.json",
        *(f"train.tfrecord-{shard:05d}-of-00003" for shard in range(3)),
        *(f"validation.tfrecord-{shard:05d}-of-00003" for shard in range(3)),
    ]
    direct = _examples(task, use_cached=False)
    assert _examples(task, use_cached=True) == direct
    assert len(direct) > 10


def test_stats_count_tokens_before_the_cache(task: seqio.Task, cache_dir: pathlib.Path) -> None:
    features.write_cache(task.name, cache_dir)
    stats = json.loads((cache_dir / "cache_task" / "stats.train.json").read_text())
    lengths = [len(e["inputs"]) for e in task.source.get_dataset("train").as_numpy_iterator()]
    assert stats["examples"] == 20
    assert stats["inputs_tokens"] == sum(lengths)
    assert stats["inputs_max_tokens"] == max(lengths)
    assert task.get_cached_stats("train") == stats


def test_second_write_raises(task: seqio.Task, cache_dir: pathlib.Path) -> None:
    features.write_cache(task.name, cache_dir)
    with pytest.raises(FileExistsError, match="cache_task is already cached in"):
        features.write_cache(task.name, cache_dir)


def test_interrupted_cache_is_written_again(task: seqio.Task, cache_dir: pathlib.Path) -> None:
    features.write_cache(task.name, cache_dir)
    (cache_dir / "cache_task" / "COMPLETED").unlink()
    assert features.write_cache(task.name, cache_dir)["train"] == 20


def test_task_without_placeholder_raises(
    register: Callable[..., str],
    make_examples: Callable[..., list[dict[str, Any]]],
    cache_dir: pathlib.Path,
) -> None:
    name = register("cache_none", make_examples(2), AFTER_CACHE)
    with pytest.raises(ValueError, match="cache_none cannot be cached"):
        features.write_cache(name, cache_dir)


def test_a_folder_whose_name_seqio_takes_for_a_pattern_is_refused(
    task: seqio.Task, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=r"cache folder .* holds \[ and \]: SeqIO reads"):
        features.write_cache(task.name, tmp_path / "c[1]")
    assert not list(tmp_path.iterdir())
