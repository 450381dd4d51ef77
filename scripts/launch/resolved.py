"""The configuration of a command of the embedded runner, as this host resolves it: its digest, mesh, size of the state."""

import hashlib
import os
from collections.abc import Iterator, Sequence

from findings import Finding

from cotdistill_jax import command as project_command


class Resolved:
    """The configuration of a command of the embedded runner, as gin resolves it on this host."""

    def __init__(self, command: Sequence[str]) -> None:
        """Reads the gin files; takes seconds, as it imports the runner.

        Raises:
            ValueError: what gin, or our own checks, say of them.
        """
        os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerator is the run's
        project_command.import_quietly("tensorflow")
        import gin
        import jax

        from cotdistill_jax import network, partitioning
        from cotdistill_jax.train import gin_config, optimizers, step

        bindings, others = gin_config.split_bindings(command)
        values = {
            name: [text.partition("=")[2] for text in others if text.startswith(f"--{name}=")]
            for name in ("gin_file", "gin_search_paths")
        }
        paths = values["gin_search_paths"][-1].split(",") if values["gin_search_paths"] else ["."]
        gin_config.parse(values["gin_file"], bindings, paths)
        self.digest = hashlib.sha256(gin.config_str().encode()).hexdigest()[:16]
        macro = lambda name: gin.query_parameter(f"{name}/macro.value")  # noqa: E731
        self.mesh_shape, self.batch_size = macro("MESH_SHAPE"), macro("BATCH_SIZE")
        self.num_microbatches = macro("NUM_MICROBATCHES")
        self.config = gin.get_configurable(network.T5Config)()
        optimizer = gin.get_configurable(optimizers.chain)()
        one = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
        state = jax.eval_shape(lambda: step.init_state(one, self.config, optimizer, seed=0))
        self.state_bytes = sum(
            leaf.size * leaf.dtype.itemsize
            for leaf in jax.tree.leaves((state.params, state.opt_state))
        )
        self._fitting = partitioning.fitting_shapes

    def wrong_mesh(self, num_devices: int | None) -> Iterator[Finding]:
        """Yields a MESH_SHAPE that is not one of so many devices, or does not divide model and batch."""
        if num_devices is None:
            return
        fitting = self._fitting(num_devices, self.config, self.batch_size, self.num_microbatches)
        shape = self.mesh_shape
        if shape is not None and len(shape) == 2:
            shape = (shape[0], 1, shape[1])
        if tuple(shape) in fitting if shape else fitting:
            return
        said = f"MESH_SHAPE = {self.mesh_shape} for {num_devices} devices, BATCH_SIZE = {self.batch_size} in {self.num_microbatches} parts"
        listed = (
            ", ".join(map(str, fitting[:6]))
            or f"none: BATCH_SIZE / NUM_MICROBATCHES must be a multiple of data * fsdp of {num_devices} devices"
        )
        yield Finding(
            "mesh",
            "gin",
            said,
            f"MESH_SHAPE = None chooses; (data, fsdp, model) that fit: {listed}",
        )
