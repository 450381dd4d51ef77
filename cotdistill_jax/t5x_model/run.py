"""What a run reads and writes: batches, examples to evaluate, weights to start from, files beside the checkpoints."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
from clu.data import dataset_iterator
from t5x import checkpoints, gin_utils, utils

from cotdistill_jax import losses, network
from cotdistill_jax.checkpoints import check_keep_every_steps, initial, write_model_files
from cotdistill_jax.train import data, evaluation, run_folder, starting, step


class _OwnPosition(dataset_iterator.DatasetIterator):
    """The batches of a run: T5X would also take over the position in the data of the run that the weights come from."""

    def __init__(self, iterator: dataset_iterator.DatasetIterator, model_dir: str) -> None:
        self._iterator = iterator
        self._model_dir = os.path.abspath(model_dir)

    def __next__(self) -> Any:
        return next(self._iterator)

    def reset(self) -> None:
        self._iterator.reset()

    @property
    def element_spec(self) -> Any:
        return self._iterator.element_spec

    def save(self, filename: Any) -> None:
        self._iterator.save(filename)

    def restore(self, filename: Any) -> None:
        if os.path.abspath(filename).startswith(f"{self._model_dir}/"):
            self._iterator.restore(filename)


def train_iterator(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    *_: Any,
    model_dir: str,
    network_config: network.T5Config,
    token_loss: losses.LossFn,
    count_examples: int | None = None,
    on_overlong: data.OnOverlong = "stop",
    settings: None = None,
) -> Any:
    """Returns the batches that T5X trains on, after counting what their lengths leave out, to `data_counts.json`.

    Args:
        cfg: Names task, lengths, batch and seed.
        shard_id: Of T5X: this host's part of the data.
        num_shards: Number of parts.
        *_: Of T5X: the model's feature converter, which is the only one, and how often to repeat: for ever.
        model_dir: The run folder.
        network_config: Dimensions of the network.
        token_loss: Compared with what a batch holds.
        count_examples: Examples per task that are measured; None: all, 0: none.
        on_overlong: Where one of these does not fit: "stop", or "drop" it and its like, which are counted.
        settings: Result of `check_settings`, which gin calls for its words.

    Raises:
        ValueError: Examples don't fit, or the loss needs features that the task or the lengths don't name.
    """
    iterator = data.train_iterator(
        cfg.mixture_or_task_name,
        cfg.task_feature_lengths,
        cfg.batch_size,
        seed=cfg.seed,
        pack=cfg.pack,
        use_cached=cfg.use_cached,
        shard=(shard_id, num_shards),
    )
    step.check_loss(token_loss, network_config, iterator.element_spec)
    if count_examples != 0:
        reports = data.count_overlong(
            cfg.mixture_or_task_name,
            cfg.task_feature_lengths,
            count_examples,
            cfg.seed,
            cfg.use_cached,
            on_overlong,
        )
        shares = data.shares_of_loss(cfg.mixture_or_task_name, reports)
        run_folder.write_data_counts(run_folder.prepare(model_dir), reports, shares)
    return _OwnPosition(iterator, model_dir)


def evaluation_dataset(
    mixture_or_task_name: str,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    split: str = "validation",
    seed: int = 0,
    period: int | None = 1,
    num_examples: int | None = None,
) -> utils.DatasetConfig | None:
    """Returns what SeqIO's evaluator or `t5x.infer` reads, or None where `period` is None.

    Args:
        mixture_or_task_name: What to evaluate.
        feature_lengths: Positions of `inputs`, and of `targets`: the most tokens generated.
        batch_size: Rows decoded together.
        split: Split to read.
        seed: Seed of random preprocessing (drawing demonstrations).
        period: Steps between evaluations in training.
        num_examples: Examples per task that are compared with the lengths; None: all.

    Raises:
        ValueError: Unknown task or mixture, or none of the examples of a task fits.
    """
    if period is None:
        return None
    data.check_registered(mixture_or_task_name)
    evaluation.check_lengths(mixture_or_task_name, feature_lengths, split, num_examples)
    return utils.DatasetConfig(
        mixture_or_task_name=mixture_or_task_name,
        task_feature_lengths=evaluation.sequence_length(mixture_or_task_name, feature_lengths),
        split=split,
        batch_size=batch_size,
        shuffle=False,
        seed=seed,
        pack=False,
    )


def initial_checkpoint(
    path: str | None, network_config: network.T5Config
) -> utils.RestoreCheckpointConfig | None:
    """Returns how T5X restores the weights that a new run starts from; None where `path` is None.

    Step, optimizer state and position in the data are not taken over.

    Args:
        path: What `checkpoints.initial.locate_t5x` takes: a T5X `checkpoint_N` folder, a run folder of either runner, a Hugging
            Face folder, or a published name such as `google/flan-t5-base`.
        network_config: Dimensions of the network.

    Raises:
        ValueError: It holds another network; the message lists what differs.
        FileNotFoundError: There is no checkpoint.
    """
    if path is None:
        return None
    located = initial.locate_t5x(path, network_config)
    print(
        f"train: a new run starts from the weights of {located}; step and optimizer state are new"
    )
    return utils.RestoreCheckpointConfig(
        path=located,
        mode="specific",
        dtype="float32",
        assignment_map=((r"^state.*", None),),
        fallback_to_scratch=True,
    )


def absolute(path: str) -> str:
    """Returns a folder's path as Orbax wants it: absolute, `~` expanded; `gs://` is left as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def check_settings(
    *,
    scan_layers: bool,
    keep_best: int,
    keep_every_hours: float | None,
    on_nonfinite: str,
    compilation_cache_dir: str | None,
) -> None:
    """Says which settings of a leaf T5X does not follow, and refuses those that would be missed.

    SAVE_INITIAL needs nothing: T5X always writes its first checkpoint before the first step.

    Args:
        scan_layers: SCAN_LAYERS; T5X's layers stay unrolled.
        keep_best: KEEP_BEST; T5X has no such choice among our metrics.
        keep_every_hours: KEEP_EVERY_HOURS; T5X counts no time.
        on_nonfinite: ON_NONFINITE; T5X's step can't be left out.
        compilation_cache_dir: COMPILATION_CACHE_DIR; followed.

    Raises:
        ValueError: KEEP_BEST, KEEP_EVERY_HOURS or ON_NONFINITE = 'skip' is set; the message lists them all.
    """
    refused = [
        f"{name} = {value!r} ({instead})"
        for name, value, default, instead in (
            ("KEEP_BEST", keep_best, 0, "KEEP_CHECKPOINTS = None keeps all"),
            ("KEEP_EVERY_HOURS", keep_every_hours, None, "KEEP_EVERY_STEPS counts steps"),
            ("ON_NONFINITE", on_nonfinite, "stop", "'stop' ends the run instead"),
        )
        if value != default
    ]
    if refused:
        raise ValueError(
            f"t5x_model: T5X can't follow {'; '.join(refused)}. Leave them at their defaults, or use the embedded runner"
        )
    if compilation_cache_dir:
        starting.use_compilation_cache(compilation_cache_dir)
    if scan_layers and jax.process_index() == 0:
        print(
            "train: SCAN_LAYERS = True is the embedded runner's: under T5X the layers stay unrolled; the numbers are the same, compiling a "
            "deep model takes several times as long, and REMAT saves less memory"
        )


def checkpointer(keep_every_steps: int | None, save_period: int) -> Any:
    """Returns T5X's `checkpointer_cls` that keeps the checkpoints at multiples of `keep_every_steps` beside the newest.

    T5X writes through Orbax whatever the class; from a partial one it takes `force_keep_period` and the like.

    Args:
        keep_every_steps: A multiple of `save_period`; None keeps the newest alone.
        save_period: Steps between two checkpoints.

    Raises:
        ValueError: It is no multiple.
    """
    check_keep_every_steps(keep_every_steps, save_period)
    if keep_every_steps is None:
        return checkpoints.Checkpointer
    return functools.partial(
        checkpoints.SaveBestCheckpointer,
        metric_name_to_monitor=None,
        force_keep_period=keep_every_steps,
    )


def describe_run(
    model_dir: str,
    summary_writer: Any,
    step: int,
    *,
    network_config: network.T5Config,
    mixture_or_task_name: str,
) -> None:
    """Writes `config.gin`, `model.json` and the vocabulary, so that every command of the project reads the run.

    Args:
        model_dir: The run folder.
        summary_writer: T5X's.
        step: The run's step.
        network_config: Dimensions of the network.
        mixture_or_task_name: Its vocabulary is copied.

    Raises:
        ValueError: The folder belongs to another network or vocabulary.
    """
    gin_utils.summarize_gin_config(model_dir, summary_writer, step)
    if jax.process_index() == 0:
        write_model_files(model_dir, network_config, *data.vocabulary_of(mixture_or_task_name))


def subfolder(parent: str, name: str) -> str:
    """Returns `parent`/`name`, absolute: gin files can't join strings.

    Example: `subfolder("gs://bucket/a/", "t5x_eval")` is `"gs://bucket/a/t5x_eval"`.
    """
    return f"{absolute(parent).rstrip('/')}/{name}"
