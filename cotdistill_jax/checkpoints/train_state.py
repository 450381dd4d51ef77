"""Checkpoints of a training run, in the layout T5X writes: either runner continues the other's run.

    model_dir/checkpoint_N/
      state/     Orbax (OCDBT): {"target": parameters, "state": {"step", "param_states": optimizer state}}
      dataset/   train_ds-000-of-001, the position of the input pipeline, which is the same on every host
      notes/     JSON: what else the runner must remember (T5X neither writes nor reads it)
      metrics/   JSON: results of an evaluation at this step, by which the best checkpoints are kept

A checkpoint appears under its name only when it is whole: Orbax writes to a temporary name and renames. In a bucket, where
nothing can be renamed, it writes `commit_success.txt` at the end, and what lacks it does not count. The random
state of a run is its seed and its step (keys are folded from them), so both are covered.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization, traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as preservation

from cotdistill_jax import files, network
from cotdistill_jax.checkpoints import orbax_layout, stored
from cotdistill_jax.network import drawing

STEP_PREFIX = "checkpoint"
_STATE, _DATASET, _NOTES = orbax_layout.STATE, "dataset", "notes"
# Names of Orbax's.
_COMMITTED, _TEMPORARY = "commit_success.txt", ".orbax-checkpoint-tmp"
_POSITION_FILE = "train_ds-000-of-001"

Tree = dict[str, Any]


class DataPosition(Protocol):
    """An input pipeline whose position can be written to and read from a file (`clu.data.DatasetIterator`)."""

    def save(self, filename: Any) -> None:
        """Writes the position to files whose names start with `filename`."""

    def restore(self, filename: Any) -> None:
        """Moves the pipeline to the position in `filename`."""


@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a training step reads and writes.

    Attributes:
      step: optimizer steps done, int32 [].
      params: nested dict of float32 arrays.
      opt_state: the Optax state.
    """

    step: Any
    params: Any
    opt_state: Any


jax.tree_util.register_dataclass(TrainState, ["step", "params", "opt_state"], [])


class DataPositionHandler(ocp.CheckpointHandler):
    """Writes the data position once, and reads it on every host, in the item `dataset`."""

    def save(self, directory: epath.Path, args: "DataPositionArgs") -> None:
        """Writes `args.position` below `directory`."""
        if jax.process_index() == 0:
            args.position.save(directory / _POSITION_FILE)

    def restore(self, directory: epath.Path, args: "DataPositionArgs") -> DataPosition:
        """Moves `args.position` to what `directory` holds and returns it.

        Raises:
          ValueError: the checkpoint was written by T5X on several hosts, each with a position of its own data.
        """
        several = sorted(path.name for path in directory.glob("process_*-of-*"))
        if several:
            raise ValueError(
                f"checkpoints: {directory} holds {len(several)} positions, one per host of a T5X run ({several[0]}, ...); "
                "continue it with T5X, or start a new run from its parameters"
            )
        args.position.restore(directory / _POSITION_FILE)
        return args.position


@ocp.args.register_with_handler(DataPositionHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class DataPositionArgs(ocp.args.CheckpointArgs):
    """The pipeline to save or to move."""

    position: Any


class TrainCheckpoints:
    """Saves and restores the checkpoints of one run folder; use as a context manager."""

    def __init__(
        self,
        model_dir: files.AnyPath,
        keep: int | None = None,
        keep_best: int = 0,
        best_metric: str | None = None,
        keep_every_hours: float | None = None,
        keep_every_steps: int | None = None,
    ) -> None:
        """Opens `model_dir`, removing what an interrupted save left there.

        Args:
          model_dir: the run folder, made where missing.
          keep: how many of the newest checkpoints stay; None keeps all.
          keep_best: how many stay besides because `best_metric` was highest.
          best_metric: name in the metrics given to `save`.
          keep_every_hours: besides, one stays per so many hours.
          keep_every_steps: besides, those whose step is a multiple of it stay.
        """
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_retention(
                keep, keep_best, best_metric, keep_every_hours, keep_every_steps
            ),
            step_prefix=STEP_PREFIX,
            # Which stay is the policy's to say; with this Orbax also writes the metrics, which a continued run compares.
            best_fn=(lambda metrics: metrics[best_metric]) if keep_best else None,
            # In a bucket Orbax would take every folder for a half-written checkpoint that holds no `commit_success.txt`, such as
            # `tensorboard`, and remove it.
            cleanup_tmp_directories=False,
            create=True,
            # A folder that a bucket refuses is then an error of `save` itself; else it is one after five minutes of waiting, without
            # its reason.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        )
        if jax.process_index() == 0:
            _remove_half_written(files.as_path(model_dir))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("half-written checkpoints removed")
        self._manager = ocp.CheckpointManager(
            epath.Path(str(files.as_path(model_dir).absolute())),
            options=options,
            item_handlers={
                _STATE: ocp.PyTreeCheckpointHandler(),
                _DATASET: DataPositionHandler(),
                _NOTES: ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "TrainCheckpoints":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for a save that is under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the newest whole step, or None where there is no checkpoint."""
        return self._manager.latest_step()

    def save(
        self,
        state: TrainState,
        position: DataPosition,
        notes: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts writing a checkpoint; training may go on while the arrays, already copied, are written.

        Args:
          state: what to save.
          position: the input pipeline.
          notes: JSON values that `notes` returns.
          metrics: results of an evaluation at this step.
        """
        items: dict[str, ocp.args.CheckpointArgs] = {
            _STATE: ocp.args.PyTreeSave(_to_tree(state)),
            _DATASET: DataPositionArgs(position),
        }
        if notes is not None:
            items[_NOTES] = ocp.args.JsonSave(dict(notes))
        args = ocp.args.Composite(**items)
        self._manager.save(
            int(state.step),
            args=args,
            # An empty dict would count as a result, one without the metric that the best are chosen by.
            metrics=dict(metrics) if metrics else None,
            force=True,
        )

    def notes(self, step: int) -> dict[str, Any] | None:
        """Returns the notes of a checkpoint; None where it has none, as one of T5X."""
        path = self._manager.directory / f"{STEP_PREFIX}_{step}" / _NOTES
        if not path.exists():
            return None
        args = ocp.args.Composite(**{_NOTES: ocp.args.JsonRestore()})
        found: dict[str, Any] = self._manager.restore(step, args=args)[_NOTES]
        return found

    def check(self) -> None:
        """Raises what went wrong in a save that has ended, without waiting for one under way."""
        self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until the last save is on disk; raises what went wrong in it."""
        self._manager.wait_until_finished()

    def restore(self, step: int, like: TrainState, position: DataPosition) -> TrainState:
        """Returns the state of `step` and moves `position` there.

        Args:
          step: one of the folder's steps.
          like: a state of `jax.ShapeDtypeStruct`s with shardings: what the run expects.
          position: the run's input pipeline.

        Raises:
          ValueError: the checkpoint has other arrays than expected; the message lists them.
        """
        expected = _to_tree(like)
        found = self._manager.item_metadata(step)[_STATE].tree
        _check_same_arrays(found, expected, f"{self._manager.directory}/{STEP_PREFIX}_{step}")
        restore_args = ocp.checkpoint_utils.construct_restore_args(expected)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{
                    _STATE: ocp.args.PyTreeRestore(item=expected, restore_args=restore_args),
                    _DATASET: DataPositionArgs(position),
                }
            ),
        )
        return _from_tree(restored[_STATE], like)


def _retention(
    keep: int | None,
    keep_best: int,
    best_metric: str | None,
    keep_every_hours: float | None,
    keep_every_steps: int | None,
) -> preservation.PreservationPolicy:
    policies: list[preservation.PreservationPolicy] = [preservation.LatestN(keep)]
    if keep_best:
        policies.append(
            preservation.BestN(
                get_metric_fn=lambda metrics: metrics[best_metric],
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    if keep_every_hours is not None:
        policies.append(preservation.EveryNSeconds(round(keep_every_hours * 3600)))
    if keep_every_steps is not None:
        policies.append(preservation.EveryNSteps(keep_every_steps))
    return preservation.AnyPreservationPolicy(policies)


def check_keep_every_steps(keep_every_steps: int | None, save_period: int) -> None:
    """Checks that a checkpoint is saved at every step that is to stay.

    Raises:
      ValueError: `keep_every_steps` is not a multiple of `save_period`.
    """
    if keep_every_steps is not None and (keep_every_steps < 1 or keep_every_steps % save_period):
        raise ValueError(
            f"checkpoints: KEEP_EVERY_STEPS = {keep_every_steps} must be a multiple of SAVE_PERIOD = {save_period}, as only saved "
            "checkpoints can stay"
        )


def list_steps(model_dir: files.AnyPath) -> list[int]:
    """Returns the steps of all whole checkpoints of a run folder, ascending."""
    prefix = f"{STEP_PREFIX}_"
    entries = (
        entry for entry in files.as_path(model_dir).iterdir() if entry.name.startswith(prefix)
    )
    whole = (entry.name.removeprefix(prefix) for entry in entries if _is_whole(entry))
    return sorted(int(number) for number in whole if number.isdigit())


def _remove_half_written(model_dir: files.Path) -> None:
    """Removes what interrupted saves left."""
    if not model_dir.is_dir():
        return
    for entry in files.entries(model_dir, f"{STEP_PREFIX}_*"):
        step = entry.name.removeprefix(f"{STEP_PREFIX}_")
        if (step.isdigit() and not _is_whole(entry)) or _TEMPORARY in step:
            files.remove_tree(entry)


def _is_whole(checkpoint: files.Path) -> bool:
    """Returns whether a folder is a checkpoint to its end: on a disk it then has its name, in a bucket a last object says so."""
    if isinstance(checkpoint, files.BucketPath):
        return (checkpoint / _COMMITTED).is_file()
    return checkpoint.is_dir()


def locate(path: files.AnyPath) -> tuple[files.Path, int]:
    """Returns (run folder, step) of a run folder, whose latest step is meant, or of a `checkpoint_N` folder.

    Raises:
      FileNotFoundError: there is no such folder, or no whole checkpoint in it.
    """
    folder = files.as_path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"checkpoints: no folder {folder}")
    prefix, _, number = folder.name.rpartition("_")
    if prefix == STEP_PREFIX and number.isdigit():
        return folder.parent, int(number)
    steps = list_steps(folder)
    if not steps:
        raise FileNotFoundError(
            f"checkpoints: {folder} holds no whole {STEP_PREFIX}_N folder; train first, or name another folder"
        )
    return folder, steps[-1]


def read_params(model_dir: files.AnyPath, step: int, config: network.T5Config) -> dict[str, Any]:
    """Returns the float32 parameters of one step as a nested dict of numpy arrays; optimizer state stays on disk.

    Raises:
      FileNotFoundError: there is no such step.
      ValueError: the parameters are not those of a network of this `config`, or damaged; the message lists what differs.
    """
    path = f"{model_dir}/{STEP_PREFIX}_{step}"
    found = orbax_layout.open_leaves(stored.open_folder(path), path, "target")
    if found is None:
        raise FileNotFoundError(f"checkpoints: no {path}/{_STATE}; expected a checkpoint of a run")
    tree = traverse_util.unflatten_dict(found, sep="/")
    _check_same_arrays(tree, {"target": abstract_params(config)}, path)
    return stored.materialise(stored.as_float32(tree["target"]))


def abstract_params(config: network.T5Config) -> Tree:
    """Returns the parameter tree of a network as `jax.ShapeDtypeStruct`s, without computing anything."""
    return abstract_variables(config)["params"]


def abstract_variables(config: network.T5Config) -> Tree:
    """Returns the collections `params` and `params_axes` of a network, without computing anything."""
    return _traced(config)[0]


def init_variables(config: network.T5Config, key: jax.Array, shardings: Any = None) -> Tree:
    """Returns freshly drawn `params` (float32) and their logical axes `params_axes`.

    Args:
      config: dimensions of the network.
      key: from `jax.random.key`.
      shardings: tree like `params`; None: all on the default device.
    """
    variables, draws = _traced(config)
    return {**variables, "params": drawing.draw(draws, variables["params"], key, shardings)}


def _traced(config: network.T5Config) -> tuple[Tree, Mapping[drawing.Path, drawing.Draw]]:
    """Returns a network's collections without values, and how its parameters are drawn."""
    token = jnp.ones((1, 1), jnp.int32)
    model = network.Transformer(config)
    with drawing.recorded() as draws:
        variables = jax.eval_shape(
            lambda: model.init(jax.random.key(0), token, token, token, enable_dropout=False)
        )
    return dict(variables), draws


def _to_tree(state: TrainState) -> Tree:
    """Returns T5X's nested dict of a state; empty Optax states leave no trace in it."""
    param_states = serialization.to_state_dict(state.opt_state)
    flat = traverse_util.flatten_dict({"param_states": param_states})
    return {
        "target": serialization.to_state_dict(state.params),
        "state": {"step": state.step, **traverse_util.unflatten_dict(flat)},
    }


def _from_tree(tree: Mapping[str, Any], like: TrainState) -> TrainState:
    template = serialization.to_state_dict(like.opt_state)
    flat = traverse_util.flatten_dict(template, keep_empty_nodes=True)
    flat.update(traverse_util.flatten_dict(tree["state"].get("param_states", {})))
    opt_state = serialization.from_state_dict(like.opt_state, traverse_util.unflatten_dict(flat))
    return TrainState(tree["state"]["step"], tree["target"], opt_state)


def _check_same_arrays(found: Any, expected: Any, where: str) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        flat = traverse_util.flatten_dict(tree, sep="/")
        return {name: tuple(leaf.shape) for name, leaf in flat.items()}

    has, wants = shapes(found), shapes(expected)
    faults = [f"missing {name} {wants[name]}" for name in sorted(wants.keys() - has.keys())]
    faults += [f"not expected {name} {has[name]}" for name in sorted(has.keys() - wants.keys())]
    faults += [
        f"{name} is {has[name]}, expected {wants[name]}"
        for name in sorted(wants.keys() & has.keys())
        if has[name] != wants[name]
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if faults[8:] else "")
        raise ValueError(
            f"checkpoints: {where} does not fit this run's network and optimizer: {shown}; "
            "use the size and optimizer of that run, or another MODEL_DIR"
        )
