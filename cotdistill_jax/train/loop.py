"""The embedded runner: data -> compiled step on a mesh -> metrics -> checkpoints.

`train` is bound by `gin/runs/finetune.gin`. A run is a folder; calling `train` again on the folder continues where
its last whole checkpoint stands: parameters, optimizer, step (hence schedule and dropout keys) and data position.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tensorflow as tf
from jax.sharding import Mesh

from cotdistill_jax import files, network
from cotdistill_jax.checkpoints import (
    TrainCheckpoints,
    TrainState,
    check_keep_every_steps,
    list_steps,
)
from cotdistill_jax.losses import LossFn, sample_matching
from cotdistill_jax.train import (
    data,
    run_folder,
    run_lock,
    run_time,
    starting,
    step,
    stopping,
    stopwatch,
)
from cotdistill_jax.train.batches import Batch, Batches
from cotdistill_jax.train.calls import Call
from cotdistill_jax.train.compilations import Compilations
from cotdistill_jax.train.metrics_file import read_metrics
from cotdistill_jax.train.metrics_log import MetricsLog
from cotdistill_jax.train.window import NonFiniteLossError, OnNonfinite, Window

EvaluateFn = Callable[[network.T5Config, Any, int, Callable[[], None]], Mapping[str, float]]
# How often the device is looked at while a batch is waited for.
_LOOK_SECONDS = 0.002


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; those before it are whole."""


class Result(NamedTuple):
    """How a call of `train` ended.

    Attributes:
      step: steps done, over all calls on this folder.
      finished: False where a signal ended the run before `total_steps`.
    """

    step: int
    finished: bool


def train(
    *,
    model_dir: files.AnyPath,
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
    num_loss_chunks: int = 1,
    log_period: int = 10,
    save_period: int = 1000,
    save_initial: bool = False,
    keep_checkpoints: int | None = 3,
    keep_best: int = 0,
    keep_best_metric: str | None = None,
    keep_every_hours: float | None = None,
    keep_every_steps: int | None = None,
    on_nonfinite: OnNonfinite = "stop",
    eval_period: int | None = None,
    evaluate: EvaluateFn | None = None,
    count_examples: int | None = 20_000,
    on_overlong: data.OnOverlong = "stop",
    tensorboard: bool = True,
    progress: bool = True,
    compilation_cache_dir: str | None = None,
    description: run_folder.Description | None = None,
    stop: stopping.StopSignal | None = None,
    age_seconds: float = 0.0,
) -> Result:
    """Trains, or continues to train, the network in `model_dir`; returns how far it came.

    SIGTERM and SIGINT end the run after the steps under way (two at most), an evaluation after its round of decoding, a wait for
    data and the compilation of the step at once: a checkpoint is saved, and the next call continues. Whatever else is compiled, for an
    evaluation, is compiled to its end. Threads may be left that compile or wait for data; end the process with `os._exit`.
    With several processes each calls it with the same arguments, and one's signal ends all after the same step.

    Args:
      model_dir: the run folder.
      network_config: dimensions of the network.
      mixture_or_task_name: SeqIO task or mixture whose `train` split is read.
      task_feature_lengths: positions per feature of a row; nothing is ever cut, see `on_overlong`.
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
      num_loss_chunks: parts of the target positions whose logits and losses are computed one after the other.
      log_period: steps between lines of metrics.
      save_period: steps between checkpoints; the last step is always saved.
      save_initial: whether to save a checkpoint before the first step, to evaluate what training adds.
      keep_checkpoints: newest checkpoints that stay; None keeps all.
      keep_best: checkpoints that stay besides, those with the highest `keep_best_metric`.
      keep_best_metric: name among what `evaluate` returns; only checkpoints at evaluated steps have it.
      keep_every_hours: besides, one checkpoint per so many hours stays.
      keep_every_steps: besides, checkpoints at multiples of so many steps stay; a multiple of `save_period`.
      on_nonfinite: at a NaN or infinite loss or gradient: "stop" the run, or "skip" that step. Either way the batch is
        written to `incidents/`.
      eval_period: steps between evaluations; None: none.
      evaluate: (network_config, params, step, check) -> scalars, see `train.evaluation`; it calls `check` between its parts,
        equally often in all processes, which raises where the run is to stop.
      count_examples: examples per task that are measured against the feature lengths first; None: all, 0: none.
      on_overlong: where one of these does not fit: "stop", or "drop" it and its like, which are counted.
      tensorboard: whether to write TensorBoard events.
      progress: whether to show a progress bar.
      compilation_cache_dir: folder of JAX's compilation cache, so that a restart does not compile again; None: none.
      description: how the run was asked for, to be compared with the folder and written there; None: nothing is.
      stop: takes signals already; None: they are taken from now on.
      age_seconds: of this process, to count what came before the call as well.

    Raises:
      ValueError: what does not fit together: mesh, batch, vocabulary, lengths, an earlier run of the folder.
      NonFiniteLossError: NaN or infinite loss or gradient; names the step and the file with its batch.
      FolderInUseError: another process trains in the folder; names it.
      CheckpointWriteError: a full disk, a folder that vanished; names the last whole checkpoint.
      OSError: the folder can't be written, or no longer.
    """
    if on_nonfinite not in ("stop", "skip"):
        raise ValueError(f"train: on_nonfinite is {on_nonfinite!r}; allowed are 'stop' and 'skip'")
    check_keep_every_steps(keep_every_steps, save_period)
    if compilation_cache_dir:
        starting.use_compilation_cache(compilation_cache_dir)
    first_host = jax.process_index() == 0
    folder = run_folder.prepare(model_dir)
    with contextlib.ExitStack() as opened:
        lock = run_lock.of_other_host(folder)
        if first_host:
            lock = opened.enter_context(run_lock.hold(folder))
        watch = opened.enter_context(stopwatch.Stopwatch(age_seconds))
        stop = stop or opened.enter_context(stopping.StopSignal())
        mesh = starting.checked_mesh(mesh_shape, network_config, batch_size, num_microbatches)
        manifest, changes = starting.claim(
            folder, network_config, mixture_or_task_name, description
        )
        iterator = data.train_iterator(
            mixture_or_task_name,
            task_feature_lengths,
            batch_size,
            seed=data_seed,
            pack=pack,
            use_cached=use_cached,
        )
        step.check_loss(loss_fn, network_config, iterator.element_spec)
        batches = opened.enter_context(Batches(iterator, stop))
        train_step = step.make_train_step(
            mesh,
            network_config,
            loss_fn,
            optimizer,
            num_microbatches,
            seed,
            skip_nonfinite=on_nonfinite == "skip",
            weigh_alike=weigh_microbatches_alike,
            num_loss_chunks=num_loss_chunks,
        )
        checkpoints = opened.enter_context(
            TrainCheckpoints(
                folder,
                keep_checkpoints,
                keep_best,
                keep_best_metric,
                keep_every_hours,
                keep_every_steps,
            )
        )
        newest = checkpoints.latest_step()
        notes = checkpoints.notes(newest) if newest else None
        times = opened.enter_context(
            run_time.RunTime(
                folder, newest or 0, notes and notes.get("time"), watch.seconds, write=first_host
            )
        )
        # A new run's, before weights are read and anything is compiled.
        if newest is None and count_examples != 0:
            counts = data.count_overlong(
                mixture_or_task_name,
                task_feature_lengths,
                count_examples,
                data_seed,
                use_cached,
                on_overlong,
            )
            shares = data.shares_of_loss(mixture_or_task_name, counts)
            run_folder.write_data_counts(folder, counts, shares)
        state = starting.state(
            mesh,
            network_config,
            optimizer,
            checkpoints,
            batches,
            seed,
            initial_checkpoint,
            mixture_or_task_name,
        )
        first = int(state.step)
        if description:
            run_folder.write_description(folder, description, manifest, first, mesh, changes)
        log = opened.enter_context(
            MetricsLog(
                folder,
                first,
                total_steps,
                tensorboard=tensorboard,
                progress=progress,
                first_host=first_host,
            )
        )
        for line in starting.greeting(folder, first, total_steps, mesh, notes, changes):
            log.say(line)
        window = Window(
            folder,
            log,
            mixture_or_task_name,
            learning_rate_schedule,
            on_nonfinite,
            notes and notes["window"],
        )
        loop = _Loop(
            mesh=mesh,
            config=network_config,
            train_step=train_step,
            batches=batches,
            evaluate=evaluate,
            plan=_Plan(total_steps, log_period, save_period, eval_period),
            folder=folder,
            lock=lock,
            checkpoints=checkpoints,
            log=log,
            window=window,
            stop=stop,
            watch=watch,
            times=times,
            compilations=Compilations(train_step, log.say),
            keep_best_metric=keep_best_metric if keep_best else None,
        )
        stop.begin()
        if save_initial and newest is None:
            loop.save(state, 0, {})
        done = loop.run(state)
    return Result(done, done == total_steps)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """When a run does what: numbers of steps."""

    total: int
    log_period: int
    save_period: int
    eval_period: int | None

    def due(self, done: int, period: int | None) -> bool:
        return period is not None and (done % period == 0 or done == self.total)


@dataclasses.dataclass(frozen=True)
class _Loop:
    """The parts that every step needs."""

    mesh: Mesh
    config: network.T5Config
    train_step: step.StepFn
    batches: Batches
    evaluate: EvaluateFn | None
    plan: _Plan
    folder: files.Path
    lock: files.Lock
    checkpoints: TrainCheckpoints
    log: MetricsLog
    window: Window
    stop: stopping.StopSignal
    watch: stopwatch.Stopwatch
    times: run_time.RunTime
    compilations: Compilations
    keep_best_metric: str | None

    def run(self, state: TrainState) -> int:
        """Trains to the end, or until a signal; returns the steps done."""
        plan, done = self.plan, int(state.step)
        first = done
        if done and self._evaluation_is_due(done) and not self._was_evaluated(done):
            self._evaluate(state, done)
        self.watch.switch(stopwatch.TRAINING)
        while done < plan.total and (batch := self._next_batch()) is not None:
            stepped = self._step(state, batch, is_first=done == first)
            if stepped is None:
                break
            state, metrics = stepped
            done += 1
            self.window.add(done, metrics, batch)
            if plan.due(done, plan.log_period):
                self.window.close(done)
                self.compilations.check(done)
                with self._writing():
                    self.times.update(done)
                    self.checkpoints.check()
            results: Mapping[str, float] = {}
            try:
                if self._evaluation_is_due(done):
                    results = self._evaluate(state, done)
            finally:
                if plan.due(done, plan.save_period):
                    self.save(state, done, results)
            # A signal can't take back what devices are given to do.
            self.window.wait_for_all_but_newest()
        if done < plan.total and done > (self.checkpoints.latest_step() or 0):
            self.save(state, done, {})
        with self._writing(), self.watch.part(stopwatch.SAVING):
            self.checkpoints.wait()
        self._say_how_it_ended(done)
        return done

    def save(self, state: TrainState, done: int, results: Mapping[str, float]) -> None:
        """Starts to save a checkpoint of parameters that are seen to be finite."""
        self.window.check()
        with self._writing():
            self.lock.check()
            self.log.flush()
            self.times.update(done, at_once=True)
        with self.watch.part(stopwatch.SAVING):
            notes = {
                "window": self.window.notes(),
                "topology": starting.topology(self.mesh),
                "time": self.times.notes(),
            }
            if not bool(_all_finite(state.params)):
                raise NonFiniteLossError(
                    f"train: a parameter is NaN or infinite after step {done}, though its loss and gradient were not; no "
                    "checkpoint was written since. Lower LEARNING_RATE, or look at the schedule"
                )
            with self._writing():
                self.checkpoints.save(state, self.batches, notes, results)

    def _step(
        self, state: TrainState, batch: Batch, is_first: bool
    ) -> tuple[TrainState, Any] | None:
        """Returns state and metrics after a step; None where a signal came before the first one of this start was computed.

        That one is compiled before, for minutes perhaps, which can't be interrupted: a thread does it, and is left behind. Nothing
        is lost, as nothing was done since the checkpoint.
        """
        placed = step.put_batch(self.mesh, batch)
        if not is_first:
            return self.train_step(state, placed)
        call = Call(
            lambda: jax.block_until_ready(self.train_step(state, placed)), self.stop.changed
        )
        call.wait(None, lambda: self.stop.wanted)
        return None if self.stop.requested(unless=call.done) else call.result()

    def _next_batch(self) -> Batch | None:
        """Returns the next batch, None where a signal came first: in all processes, as none can do a step without the others."""
        there = False
        while not there and not self.stop.wanted:
            idle = self.window.is_computed()
            with self.watch.part(stopwatch.WAITING if idle else stopwatch.TRAINING):
                there = self.batches.wait(None if idle else _LOOK_SECONDS)
        return None if self.stop.requested() else self.batches.take()

    def _say_how_it_ended(self, done: int) -> None:
        total, name = self.plan.total, self.stop.name
        if done == 0:
            self.log.say(f"train: stopped by {name} before the first of {total} steps")
        elif done < total:
            self.log.say(
                f"train: stopped by {name} after step {done} of {total}; its checkpoint is saved"
            )
        ended = run_time.DONE if done == total else run_time.STOPPED
        self.times.update(done, ended)
        self.log.say(f"train: {self.times.summary()}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says of an error with a checkpoint what is left and what to do; Orbax, TensorStore and TensorFlow give the reason alone."""
        try:
            yield
        except (OSError, ValueError, tf.errors.OpError) as error:
            kept = _newest_whole(self.folder)
            if files.is_remote(self.folder):
                remedy = files.explain(str(error), self.folder)
            else:
                remedy = f"Make room there or bring the folder back, then run the same command again. The reason: {str(error)[:400]}"
            raise CheckpointWriteError(
                f"train: a checkpoint could not be written in {self.folder}; {kept}. {remedy}"
            ) from error

    def _evaluation_is_due(self, done: int) -> bool:
        return self.evaluate is not None and self.plan.due(done, self.plan.eval_period)

    def _was_evaluated(self, done: int) -> bool:
        """Whether the results of step `done` are in the log; they are not where a signal or a kill ended the evaluation."""
        lines = read_metrics(self.folder)
        return any(line["step"] == done and "num_target_tokens" not in line for line in lines)

    def _evaluate(self, state: TrainState, done: int) -> Mapping[str, float]:
        """Evaluates and logs; returns the results, none where a signal came first."""
        assert self.evaluate is not None
        self.window.pause_clock()
        try:
            with self.watch.part(stopwatch.EVALUATING):
                results = self.evaluate(self.config, state.params, done, self.stop.check)
        except stopping.StopRequestedError:
            return {}
        self.log.write(done, results)
        self.window.restart_clock()
        if self.keep_best_metric and self.keep_best_metric not in results:
            raise ValueError(
                f"train: KEEP_BEST_METRIC {self.keep_best_metric!r} is not among the results of the evaluation: "
                f"{', '.join(sorted(results))}"
            )
        return results


def _newest_whole(folder: files.Path) -> str:
    """Returns in words which checkpoint of a folder is the last whole one."""
    try:
        whole = list_steps(folder) if folder.exists() else []
    except files.BucketError:
        return "which one is the last whole one can't be asked now"
    return f"the last whole one is that of step {whole[-1]}" if whole else "there is none"


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
