"""How a run begins or goes on: the checks before the first step, the state it starts from, what its user is told."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from cotdistill_jax import files, network, partitioning
from cotdistill_jax.checkpoints import (
    TrainCheckpoints,
    TrainState,
    initial,
    list_steps,
    write_model_files,
)
from cotdistill_jax.train import config_changes, data, planning, run_folder, step


def use_compilation_cache(folder: str) -> None:
    """Lets JAX keep compiled programs in `folder`, so that a restart does not compile again."""
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def checked_mesh(
    shape: tuple[int, ...] | None,
    config: network.T5Config,
    batch_size: int | None,
    num_microbatches: int,
) -> Mesh:
    """Returns the mesh of a run, chosen and said where the shape is None; the accelerators are JAX's alone.

    Raises:
      ValueError: network, batch and mesh do not fit together; the message lists every reason.
    """
    data.keep_tensorflow_off_accelerators()
    num_devices = len(jax.devices())
    if shape is None and num_devices > 1:
        memory = partitioning.device_memory()
        shape, why = planning.choose_shape(
            num_devices, config, batch_size, num_microbatches, memory
        )
        if jax.process_index() == 0:
            print(
                f"train: MESH_SHAPE = {shape} (data, fsdp, model) of {num_devices} devices: {why}"
            )
    mesh = partitioning.make_mesh(shape)
    partitioning.check_mesh(mesh, config, batch_size, num_microbatches)
    return mesh


def claim(
    folder: files.Path,
    config: network.T5Config,
    mixture_or_task_name: str,
    description: run_folder.Description | None,
) -> tuple[dict[str, Any], list[config_changes.Change]]:
    """Makes `folder` the folder of a model of this shape and vocabulary.

    Returns what the run reads (`data.manifest`) and what changed since the folder's last start; both empty without a
    description, and on hosts but the first.

    Args:
      folder: the run folder.
      config: dimensions of the network.
      mixture_or_task_name: what is trained on.
      description: how the run was asked for; None: nothing is compared.

    Raises:
      ValueError: unknown mixture, a vocabulary that is too large, a folder of another model or, where that was not
        allowed, of another configuration.
    """
    data.check_registered(mixture_or_task_name)
    data.check_vocabulary(mixture_or_task_name, config)
    manifest: dict[str, Any] = {}
    changes: list[config_changes.Change] = []
    if jax.process_index() == 0:
        write_model_files(folder, config, *data.vocabulary_of(mixture_or_task_name))
        if description:
            before = max(list_steps(folder), default=0)
            manifest = data.manifest(mixture_or_task_name)
            changes = run_folder.changes(folder, description, manifest, before)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("folder")
    return manifest, changes


def state(
    mesh: Mesh,
    config: network.T5Config,
    optimizer: optax.GradientTransformation,
    checkpoints: TrainCheckpoints,
    iterator: Any,
    seed: int,
    initial_checkpoint: str | None,
    mixture_or_task_name: str,
) -> TrainState:
    """Returns the newest checkpoint's state, the iterator moved there; without a checkpoint that of a new run.

    Args:
      mesh: from `checked_mesh`.
      config: dimensions of the network.
      optimizer: as in the run.
      checkpoints: of the run folder.
      iterator: the run's input.
      seed: seed of drawn parameters.
      initial_checkpoint: weights of a new run, see `checkpoints.initial`; None draws them.
      mixture_or_task_name: its vocabulary must be that of these weights.
    """
    newest = checkpoints.latest_step()
    if newest is not None:
        shapes = jax.eval_shape(lambda: step.init_state(mesh, config, optimizer, seed=0))
        shardings = step.state_shardings(mesh, config, optimizer)
        like = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        return checkpoints.restore(newest, like, iterator)
    if initial_checkpoint is None:
        return step.init_state(mesh, config, optimizer, seed)
    vocabulary_file, _ = data.vocabulary_of(mixture_or_task_name)
    params, said = initial.read(initial_checkpoint, config, vocabulary_file)
    if jax.process_index() == 0:
        print(f"train: {said}")
    return step.init_state(mesh, config, optimizer, seed, params)


def topology(mesh: Mesh) -> dict[str, Any]:
    """Returns what a checkpoint remembers of the devices it was computed on."""
    return {
        "num_hosts": jax.process_count(),
        "mesh": dict(mesh.shape),
        "device_kind": jax.devices()[0].device_kind,
    }


def greeting(
    folder: files.Path,
    first: int,
    total: int,
    mesh: Mesh,
    notes: Mapping[str, Any] | None,
    changes: Sequence[config_changes.Change],
) -> list[str]:
    """Returns what a user should know about a run that continues after step `first` of `total`."""
    if not first:
        return []
    lines = [f"train: continuing {folder} after step {first} of {total}"]
    if changes:
        lines.append(f"train: changed since its last start: {'; '.join(map(str, changes))}")
    now = topology(mesh)
    before = notes["topology"] if notes else now
    if before != now:
        lines.append(
            f"train: the checkpoint is from {before}, this run has {now}: the batches are the same, in the same order, "
            "but sums run in another order, so that numbers agree to float32 rounding only"
        )
    return lines
