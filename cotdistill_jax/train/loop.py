"""The embedded runner: data -> compiled step on a mesh -> metrics -> checkpoints.

`train` is bound by `gin/runs/finetune.gin`. A run is a folder; calling `train` again on the folder continues where
its last whole checkpoint stands: parameters, optimizer, step (hence schedule and dropout keys) and data position.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cotdistill_jax import network, partitioning
from cotdistill_jax.checkpoints import TrainCheckpoints, TrainState, initial, write_model_files
from cotdistill_jax.losses import LossFn, sample_matching
from cotdistill_jax.train import data, run_folder, step
from cotdistill_jax.train.metrics_log import MetricsLog

EvaluateFn = Callable[[network.T5Config, Any, int], Mapping[str, float]]


class Result(NamedTuple):
    """How a call of `train` ended.

    Attributes:
      step: steps done, over all calls on this folder.
      finished: False where a signal ended the run before `total_steps`.
    """

    step: int
    finished: bool


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is NaN or infinite; the last checkpoint is from before."""


def train(
    *,
    model_dir: str | os.PathLike[str],
    network_config: network.T5Config,
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    total_steps: int,
    batch_size: int,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFn = sample_matching,
    learning_rate_schedule: optax.Schedule | None = None,
    num_microbatches: int = 1,
    pack: bool = True,
    use_cached: bool = False,
    seed: int = 0,
    data_seed: int = 0,
    mesh_shape: tuple[int, ...] | None = None,
    initial_checkpoint: str | None = None,
    weigh_microbatches_alike: bool = False,
    log_period: int = 10,
    save_period: int = 1000,
    save_initial: bool = False,
    keep_checkpoints: int | None = 3,
    eval_period: int | None = None,
    evaluate: EvaluateFn | None = None,
    count_examples: int | None = 20_000,
    tensorboard: bool = True,
    progress: bool = True,
) -> Result:
    """Trains, or continues to train, the network in `model_dir`; returns how far it came.

    SIGTERM and SIGINT end the run after the step under way: a checkpoint is saved, and the next call continues.

    Args:
      model_dir: the run folder.
      network_config: dimensions of the network.
      mixture_or_task_name: SeqIO task or mixture whose `train` split is read.
      task_feature_lengths: positions per feature of a row; over-long examples are dropped and counted.
      total_steps: optimizer steps in all.
      batch_size: rows per step, over all hosts.
      optimizer: an Optax transformation, learning-rate schedule included.
      loss_fn: loss per target token, `losses.sample_matching` or `losses.distribution_matching`.
      learning_rate_schedule: step -> learning rate, only to log it.
      num_microbatches: parts of a batch computed one after the other.
      pack: whether several examples share a row.
      use_cached: whether to read SeqIO's offline cache.
      seed: seed of the drawn parameters and of dropout.
      data_seed: seed of shuffling, mixing and demonstrations.
      mesh_shape: devices along (data, fsdp, model) or (data, model); None: all along data.
      initial_checkpoint: weights to start from, see `checkpoints.initial`; None draws them.
      weigh_microbatches_alike: whether every microbatch counts alike, whatever its number of target tokens.
      log_period: steps between lines of metrics.
      save_period: steps between checkpoints; the last step is always saved.
      save_initial: whether to save a checkpoint before the first step, to evaluate what training adds.
      keep_checkpoints: newest checkpoints that stay; None keeps all.
      eval_period: steps between evaluations; None: none.
      evaluate: (network_config, params, step) -> scalars, see `train.evaluation`.
      count_examples: examples per task that are measured against the feature lengths first; None: all, 0: none.
      tensorboard: whether to write TensorBoard events.
      progress: whether to show a progress bar.

    Raises:
      ValueError: what does not fit together: mesh, batch, vocabulary, lengths, an earlier run of the folder.
      NonFiniteLossError: NaN or infinite loss or gradient; names the step and the checkpoint to go back to.
      OSError: the folder can't be written.
    """
    folder = run_folder.prepare(model_dir)
    data.keep_tensorflow_off_accelerators()
    mesh = partitioning.make_mesh(mesh_shape)
    partitioning.check_mesh(mesh, network_config, batch_size, num_microbatches)
    data.check_registered(mixture_or_task_name)
    data.check_vocabulary(mixture_or_task_name, network_config)
    write_model_files(folder, network_config, *data.vocabulary_of(mixture_or_task_name))
    iterator = data.train_iterator(
        mixture_or_task_name,
        task_feature_lengths,
        batch_size,
        seed=data_seed,
        pack=pack,
        use_cached=use_cached,
    )
    train_step = step.make_train_step(
        mesh,
        network_config,
        loss_fn,
        optimizer,
        num_microbatches,
        seed,
        weigh_alike=weigh_microbatches_alike,
    )

    def start() -> TrainState:
        if initial_checkpoint is None:
            return step.init_state(mesh, network_config, optimizer, seed)
        vocabulary_file, _ = data.vocabulary_of(mixture_or_task_name)
        params, said = initial.read(initial_checkpoint, network_config, vocabulary_file)
        print(f"train: {said}")
        return step.init_state(mesh, network_config, optimizer, seed, params)

    with TrainCheckpoints(folder, keep_checkpoints) as checkpoints, _StopSignal() as stop:
        state = _restore(mesh, network_config, optimizer, checkpoints, iterator) or start()
        first = int(state.step)
        if first == 0 and count_examples != 0:
            reports = data.count_overlong(
                mixture_or_task_name, task_feature_lengths, count_examples, data_seed, use_cached
            )
            run_folder.write_data_counts(folder, reports)
        if save_initial and checkpoints.latest_step() is None:
            checkpoints.save(state, iterator)
        with MetricsLog(
            folder, first, total_steps, tensorboard=tensorboard, progress=progress
        ) as log:
            if first:
                log.say(f"train: continuing {folder} after step {first} of {total_steps}")
            window = _Window(log, learning_rate_schedule)
            done = first
            while done < total_steps and not stop.requested:
                state, metrics = train_step(state, step.put_batch(mesh, next(iterator)))
                done += 1
                window.add(metrics)
                if done % log_period == 0 or done == total_steps:
                    window.close(done)
                if done % save_period == 0 or done == total_steps:
                    window.check(done)
                    checkpoints.save(state, iterator)
                if evaluate and eval_period and (done % eval_period == 0 or done == total_steps):
                    log.write(done, evaluate(network_config, state.params, done))
                    window.restart_clock()
            if done < total_steps:
                window.check(done)
                if done > (checkpoints.latest_step() or 0):
                    checkpoints.save(state, iterator)
                log.say(f"train: stopped by {stop.name} after step {done} of {total_steps}, saved")
    return Result(done, done == total_steps)


def _restore(
    mesh: Mesh,
    config: network.T5Config,
    optimizer: optax.GradientTransformation,
    checkpoints: TrainCheckpoints,
    iterator: Any,
) -> TrainState | None:
    """Returns the newest checkpoint's state, the iterator moved there; None without a checkpoint."""
    newest = checkpoints.latest_step()
    if newest is None:
        return None
    shapes = jax.eval_shape(lambda: step.init_state(mesh, config, optimizer, seed=0))
    shardings = step.state_shardings(mesh, config, optimizer)
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    return checkpoints.restore(newest, like, iterator)


class _Window:
    """Metrics of the steps since the last log line; they stay on the device until the line is written."""

    def __init__(self, log: MetricsLog, schedule: optax.Schedule | None) -> None:
        self._log = log
        self._schedule = schedule
        self._metrics: list[step.Metrics] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        self._since = time.monotonic()

    def add(self, metrics: step.Metrics) -> None:
        self._metrics.append(metrics)

    def check(self, done: int) -> list[dict[str, float]]:
        """Fetches the metrics and raises at the first step whose loss or gradient is not finite."""
        fetched = [{k: float(v) for k, v in m.items()} for m in jax.device_get(self._metrics)]
        for number, values in enumerate(fetched, start=done - len(fetched) + 1):
            if not (np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"])):
                raise NonFiniteLossError(
                    f"train: loss {values['loss']}, gradient norm {values['grad_norm']} at step {number}; no "
                    "checkpoint was written since. Lower LEARNING_RATE, raise WARMUP_STEPS or clip the gradient"
                )
        return fetched

    def close(self, done: int) -> None:
        """Writes the line of the window that ends with step `done` and starts the next window."""
        fetched = self.check(done)
        seconds = time.monotonic() - self._since
        tokens = sum(m["num_target_tokens"] + m["num_input_tokens"] for m in fetched)
        scalars = {
            name: float(
                (np.sum if name.startswith("num_") else np.mean)([m[name] for m in fetched])
            )
            for name in fetched[0]
        }
        scalars["steps_per_second"] = len(fetched) / seconds
        scalars["tokens_per_second"] = tokens / seconds
        if self._schedule is not None:
            scalars["learning_rate"] = float(self._schedule(done - 1))
        self._log.write(done, scalars)
        self._log.advance(done, scalars["loss"], scalars["tokens_per_second"])
        self._metrics = []
        self.restart_clock()


class _StopSignal:
    """Turns SIGTERM and SIGINT into a flag while a run lasts; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.requested = False
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        self.name = signal.Signals(number).name
