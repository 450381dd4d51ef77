"""The input of a run: a SeqIO task or mixture, packed and batched, with a position that can be saved.

Every host reads the same batches and places the rows of its own devices. So the order of the data, and the saved position,
do not depend on the number of hosts; the cost is that each host prepares all rows (scripts/benchmark_packing.py
measures how many a second) instead of its share.
"""

import difflib
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

import seqio
import tensorflow as tf
from clu.data import dataset_iterator

from cotdistill_jax import features, files, network, seqio_tasks

OnOverlong = Literal["stop", "drop"]


def train_iterator(
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    *,
    seed: int,
    pack: bool = True,
    use_cached: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> dataset_iterator.TfDatasetIterator:
    """Returns an endless iterator over shuffled batches, the input of both runners; `save` and `restore` move it.

    A saved position fits only the very same pipeline, down to its prefetching.

    Args:
      mixture_or_task_name: a registered SeqIO task or mixture; its `train` split is read.
      task_feature_lengths: positions per feature of a row. With `teacher_ids` and `teacher_probs` the teacher's
        distribution goes along; without, only `inputs` and `targets` are read (sample matching).
      batch_size: rows over all shards.
      seed: seed of shuffling, mixing and drawing demonstrations.
      pack: whether several examples share a row.
      use_cached: whether to read SeqIO's offline cache.
      shard: (index, count) of this host's part of the data, which T5X splits; the embedded runner reads all on every host.

    Raises:
      ValueError: unknown name (the message lists close ones), or lengths that don't fit the task's features.
    """
    check_registered(mixture_or_task_name)
    dataset = seqio.get_dataset(
        mixture_or_task_name,
        task_feature_lengths=task_feature_lengths,
        dataset_split="train",
        shuffle=True,
        num_epochs=None,
        feature_converter=features.DistillEncDecFeatureConverter(pack=pack),
        shard_info=seqio.ShardInfo(*shard),
        use_cached=use_cached,
        seed=seed,
    )
    dataset = dataset.batch(batch_size // shard[1], drop_remainder=True).prefetch(2)
    return dataset_iterator.TfDatasetIterator(dataset, checkpoint=True)


def check_registered(name: str) -> None:
    """Checks that SeqIO knows a task or mixture.

    Raises:
      ValueError: it does not; the message lists the close names and, without any, all of ours.
    """
    known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=6, cutoff=0.4) or known
    imported = sys.modules.get("tasks")
    if imported is not None and not hasattr(imported, "gsm8k_gold"):
        raise ValueError(
            f"unknown task or mixture {name!r}: `import tasks` found {imported.__file__}, which is another project's; start from "
            "another folder, or let that module import this project's tasks under another name"
        )
    raise ValueError(
        f"unknown task or mixture {name!r}; expected one of {', '.join(close)} "
        '(all: python -c "import tasks, seqio; print(seqio.MixtureRegistry.names(), seqio.TaskRegistry.names())"). '
        f"Corpora of your own are looked for in COTDISTILL_TFDS_DIR, {os.environ.get('COTDISTILL_TFDS_DIR') or 'which is not set'}"
    )


def vocabulary_of(mixture_or_task_name: str) -> tuple[str, int]:
    """Returns the SentencePiece file and the number of extra ids of a task's or mixture's targets."""
    found = vocabulary(mixture_or_task_name)
    return os.fspath(found.sentencepiece_model_file), found.extra_ids


def vocabulary(mixture_or_task_name: str) -> seqio.Vocabulary:
    """Returns the vocabulary of a task's or mixture's targets."""
    return seqio.get_mixture_or_task(mixture_or_task_name).output_features["targets"].vocabulary


def check_vocabulary(mixture_or_task_name: str, config: network.T5Config) -> None:
    """Checks that every token id of the data has a row in the network's embedding.

    Raises:
      ValueError: the vocabulary is larger than the network's.
    """
    size = vocabulary(mixture_or_task_name).vocab_size
    if size > config.vocab_size:
        raise ValueError(
            f"train: {mixture_or_task_name} has a vocabulary of {size} ids, the network {config.vocab_size}; "
            "set VOCAB_SIZE to at least that (32128 for T5)"
        )


def count_overlong(
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    max_examples: int | None,
    seed: int,
    use_cached: bool = False,
    on_overlong: OnOverlong = "stop",
) -> dict[str, features.LengthReport]:
    """Returns, per task, how many examples the feature lengths leave out; they are dropped, never trimmed.

    Args:
      mixture_or_task_name: what is trained on.
      task_feature_lengths: positions per feature.
      max_examples: examples of each task that are measured; None: all. The rest is not known to fit.
      seed: seed of drawn demonstrations, which lengthen inputs.
      use_cached: whether to read SeqIO's offline cache.
      on_overlong: whether to "stop" where an example is too long, or to "drop" it.

    Raises:
      ValueError: under "stop" an example does not fit; under "drop" a task of the mixture has none left. The message
        names tasks, numbers and the lengths to set.
    """
    if on_overlong not in ("stop", "drop"):
        raise ValueError(f"train: ON_OVERLONG is {on_overlong!r}; allowed are 'stop' and 'drop'")
    reports = features.count_lengths(
        mixture_or_task_name, "train", task_feature_lengths, max_examples, seed, use_cached
    )
    for name, report in reports.items():
        if not report.kept:
            raise ValueError(
                f"train: none of the first {report.examples} examples of {name} fits {dict(task_feature_lengths)}: "
                f"the longest input has {report.inputs.maximum} tokens, the longest target "
                f"{report.targets.maximum}; raise TASK_FEATURE_LENGTHS"
            )
    overlong = {name: report for name, report in reports.items() if report.kept < report.examples}
    if overlong and on_overlong == "stop":
        found = "; ".join(
            f"{report.examples - report.kept:,} of the first {report.examples:,} of {name} ({report.over_long_inputs:,} in "
            f"inputs, the longest {report.inputs.maximum:,} tokens; {report.over_long_targets:,} in targets, the longest "
            f"{report.targets.maximum:,})"
            for name, report in overlong.items()
        )
        longest = {
            "inputs": max(report.inputs.maximum for report in reports.values()),
            "targets": max(report.targets.maximum for report in reports.values()),
        }
        raise ValueError(
            f"train: examples are longer than TASK_FEATURE_LENGTHS {dict(task_feature_lengths)}, which would cut them: "
            f"{found}. All fit {longest} (teacher features have the length of targets); or say ON_OVERLONG = 'drop' to "
            "leave them out whole"
        )
    return reports


def shares_of_loss(
    mixture_or_task_name: str, reports: Mapping[str, features.LengthReport]
) -> dict[str, float]:
    """Returns the share of each task in the loss (`seqio_tasks.shares_of_loss`), from `count_overlong`'s reports."""
    means = {name: report.mean_targets for name, report in reports.items()}
    return seqio_tasks.shares_of_loss(mixture_or_task_name, means)


def manifest(mixture_or_task_name: str) -> dict[str, dict[str, Any]]:
    """Returns, per task, the source of its `train` split and the checksum of every file that it reads."""
    provider = seqio.get_mixture_or_task(mixture_or_task_name)
    tasks = provider.tasks if isinstance(provider, seqio.Mixture) else [provider]
    checksums: dict[str, str] = {}
    for task in tasks:
        for file in task.source.list_shards("train"):
            if file not in checksums and files.as_path(file).is_file():
                checksums[file] = files.file_sha256(file)
    return {
        task.name: {
            "source": type(task.source).__name__,
            "examples": task.source.num_input_examples("train"),
            "sha256": {
                files.as_path(file).name: checksums[file]
                for file in task.source.list_shards("train")
                if file in checksums
            },
        }
        for task in tasks
    }


def keep_tensorflow_off_accelerators() -> None:
    """Leaves the accelerators to JAX: TensorFlow only reads data, and would reserve their memory."""
    tf.config.set_visible_devices([], "GPU")
