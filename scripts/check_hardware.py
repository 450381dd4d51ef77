"""What this machine, or this pod, does with a leaf's real step: a table to paste into an issue. Needs neither TensorFlow nor SeqIO.

    python scripts/check_hardware.py                                  # the largest leaf of seed_{tiny,base,large,xl,xxl} that fits
    python scripts/check_hardware.py --size=xl --checkpoint_dir=gs://BUCKET/check
    python scripts/check_hardware.py --leaf=gin/experiments/gsm8k_teacher_xl.gin --gin.BATCH_SIZE=16
    python scripts/check_hardware.py --multihost                      # on every host; the first one prints

Random weights and rows, so no download. Each part (matrix product, training, plan, decoding, checkpoint) says what failed in it, and
the next one goes on; the exit status is 1 then. The checkpoint is written below --checkpoint_dir and removed again.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cotdistill_jax import checkpoints, command, decoding, devices, files, network, partitioning
from cotdistill_jax.checkpoints import train_state
from cotdistill_jax.train import chips, gin_config, planning, recipe, step

SIZES = ("tiny", "base", "large", "xl", "xxl")
PARAMETERS = {"tiny": 1e7, "base": 2.5e8, "large": 7.8e8, "xl": 2.85e9, "xxl": 1.11e10}
PLAN_SECONDS = 1200
Rows = Iterator[tuple[str, str]]


class Position:
    """Stands where a run's input pipeline would: this check has no data."""

    def save(self, filename: Any) -> None:
        """Writes a file, as a pipeline would."""
        filename.write_text("no data")

    def restore(self, filename: Any) -> None:
        """Reads it."""
        filename.read_text()


def default_size() -> str:
    """Returns the largest size whose parameters and optimizer state take half of all devices' memory; tiny where that is not known."""
    memory = partitioning.device_memory() or 0
    room = len(jax.devices()) * memory / 2
    fitting = [size for size in SIZES if PARAMETERS[size] * partitioning.STATE_BYTES <= room]
    return fitting[-1] if fitting else "tiny"


def published(device: jax.Device) -> chips.Chip | None:
    """Returns a device's published numbers, or None where `train/chips.py` has none of it."""
    name = devices.name(device)
    # "NVIDIA A100-SXM4-80GB" is "A100 80GB".
    known = [chip for chip in chips.CHIPS if all(word in name for word in chip.name.split())]
    return known[0] if known else None


def model_flops(config: network.T5Config, rows: int, inputs: int, targets: int) -> float:
    """Returns the operations of forward and backward (three times forward), attention's scores included, nothing computed twice."""
    width, heads = config.emb_dim, config.num_heads * config.head_dim
    matrices = 3 if len(config.mlp_activations) == 2 else 2
    block = 4 * width * heads + matrices * width * config.mlp_dim
    encoder = inputs * (2 * block + 4 * inputs * heads)
    cross = targets * 2 * 2 * width * heads + inputs * 2 * 2 * width * heads
    decoder = targets * (2 * block + 4 * targets * heads + 4 * inputs * heads) + cross
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return 3.0 * rows * (layers + 2 * targets * width * config.vocab_size)


def random_batch(leaf: recipe.Recipe) -> dict[str, np.ndarray]:
    """Returns rows of one example each, as full as the leaf's lengths allow; the same on every host."""
    rng = np.random.default_rng(0)
    batch = {}
    for name, like in leaf.batch.items():
        if name.endswith("positions"):
            batch[name] = np.broadcast_to(np.arange(like.shape[1]), like.shape)
        elif name.endswith(("segment_ids", "loss_weights")):
            batch[name] = np.ones(like.shape)
        elif name.endswith("teacher_probs"):
            batch[name] = rng.dirichlet(np.ones(like.shape[2] + 1), like.shape[:2])[..., :-1]
        elif name.endswith("teacher_ids"):
            first = rng.integers(2, leaf.config.vocab_size, (*like.shape[:2], 1))
            batch[name] = (first + 7 * np.arange(like.shape[2])) % leaf.config.vocab_size
        else:
            batch[name] = rng.integers(2, leaf.config.vocab_size, like.shape)
    return {name: np.asarray(batch[name], leaf.batch[name].dtype) for name in batch}


class Check:
    """The parts of the check; what one leaves behind the next ones take."""

    def __init__(
        self, flags: argparse.Namespace, leaf: recipe.Recipe, shape: tuple[int, ...]
    ) -> None:
        """Makes the mesh; `flags` are those of `parser`, with `bindings` and `run_id`."""
        self.flags = flags
        self.leaf = leaf
        self.shape = shape
        self.mesh = partitioning.make_mesh(shape)
        self.peak_bytes = 0
        self.state: Any = None

    def product(self) -> Rows:
        """A plain matrix product: what a step can be measured by."""
        size = 512 if jax.default_backend() == "cpu" else 8192
        left = jax.device_put(jnp.ones((size, size), jnp.bfloat16), jax.local_devices()[0])
        multiply = jax.jit(jnp.dot)
        seconds = min(timed(lambda: multiply(left, left), 10)[1:])
        yield (
            f"product of {size} x {size}, bfloat16, one device",
            f"{2 * size**3 / seconds / 1e12:,.2f} TFLOP/s",
        )

    def training(self) -> Rows:
        """The leaf's own step: its loss, optimizer, micro-batches, remat."""
        leaf = self.leaf
        train_step: Any = step.make_train_step(
            self.mesh,
            leaf.config,
            leaf.loss_fn,
            leaf.optimizer,
            num_microbatches=leaf.num_microbatches,
            weigh_alike=leaf.weigh_alike,
            skip_nonfinite=leaf.skip_nonfinite,
            num_loss_chunks=leaf.num_loss_chunks,
        )
        start = time.perf_counter()
        state = step.init_state(self.mesh, leaf.config, leaf.optimizer, seed=0)
        jax.block_until_ready(state)
        yield "weights drawn", f"{time.perf_counter() - start:.1f} s"
        batch = step.put_batch(self.mesh, random_batch(leaf))
        start = time.perf_counter()
        compiled = train_step.lower(state, batch).compile()
        yield "step compiled", f"{time.perf_counter() - start:.1f} s"
        losses, seconds = [], []
        for _ in range(self.flags.steps + 1):
            start = time.perf_counter()
            state, metrics = compiled(state, batch)
            losses.append(float(metrics["loss"]))
            seconds.append(time.perf_counter() - start)
        self.state = state
        median = statistics.median(seconds[1:])
        inputs, targets = (
            leaf.batch[f"{side}_input_tokens"].shape[1] for side in ("encoder", "decoder")
        )
        yield (
            f"a step of {leaf.batch_size} x ({inputs} + {targets}) tokens, median of {self.flags.steps}",
            f"{median * 1000:,.1f} ms ({min(seconds[1:]) * 1000:,.1f} to {max(seconds[1:]) * 1000:,.1f})",
        )
        yield (
            "tokens a second, all devices",
            f"{leaf.batch_size * (inputs + targets) / median:,.0f}",
        )
        rate = (
            model_flops(leaf.config, leaf.batch_size, inputs, targets) / median / len(jax.devices())
        )
        chip = published(jax.devices()[0])
        mfu = f"no published peak of {devices.name(jax.devices()[0])} in train/chips.py"
        if chip:
            peak = chip.flops(leaf.config.dtype)
            mfu = f"{rate / peak:.1%} of {chip.name}'s {peak / 1e12:,.1f} TFLOP/s"
        yield "model FLOPs a device (MFU)", f"{rate / 1e12:,.3f} TFLOP/s; {mfu}"
        self.peak_bytes = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        yield (
            "peak memory of a device",
            gib(self.peak_bytes) if self.peak_bytes else "not told by this backend",
        )
        yield "loss, first and last", f"{losses[0]:.4f}, {losses[-1]:.4f}"
        if not np.isfinite(
            losses
        ).all():  # need not fall: the learning rate of the first steps is next to nothing
            raise ValueError(f"losses that are not finite: {losses}")

    def plan(self) -> Rows:
        """What `scripts/plan_run.py` says of the same, computed on this machine's CPUs."""
        mesh = ",".join(
            f"{axis}={size}" for axis, size in zip(partitioning.MESH_AXES, self.shape, strict=True)
        )
        script = files.as_path(__file__).parent / "plan_run.py"
        arguments = [f"--gin_file={self.flags.leaf}", f"--mesh={mesh}", *self.flags.bindings]
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=PLAN_SECONDS,
        )
        kind = "TPU" if jax.default_backend() == "tpu" else "GPU"
        found = re.search(rf"together on a {kind} ([\d.]+)", done.stdout)
        if done.returncode or not found:
            raise ValueError(f"plan_run ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        planned = float(found[1]) * chips.GIB
        against = f"; measured {self.peak_bytes / planned - 1:+.0%}" if self.peak_bytes else ""
        yield "planned memory of a device", gib(planned) + against

    def decoding(self) -> Rows:
        """Greedy decoding of full batches, without an early end."""
        config, rows = self.leaf.config, self.leaf.eval_batch_size
        inputs, new = self.leaf.eval_lengths["inputs"], self.flags.new_tokens
        # The very weights that were trained, or new ones where training failed.
        params = (
            self.state.params
            if self.state
            else step.init_state(self.mesh, config, self.leaf.optimizer, seed=0).params
        )
        if config.scan_layers:
            config, params = step.unstacked(config, params, self.mesh)
        prompts = np.random.default_rng(0).integers(2, config.vocab_size, (rows, inputs)).tolist()

        def decode() -> Any:
            return decoding.generate(
                config, params, prompts, new, batch_size=rows, eos_id=-1, mesh=self.mesh
            )

        first, *seconds = timed(decode, 3)
        median = statistics.median(seconds)
        yield (
            f"decoding {rows} x ({inputs} + {new} new) tokens",
            f"{median:,.2f} s (the first, compiled: {first:,.1f} s)",
        )
        yield "new tokens a second, all devices", f"{rows * new / median:,.0f}"

    def checkpoint(self) -> Rows:
        """The state, optimizer's included, written and read back to the bit."""
        if self.state is None:
            raise ValueError("no state: training failed or was left out")
        name = f"check_hardware-{self.flags.run_id}"
        folder = files.as_path(self.flags.checkpoint_dir) / name
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))
        shardings = step.state_shardings(self.mesh, self.leaf.config, self.leaf.optimizer)
        like = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self.state,
            shardings,
        )
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with train_state.TrainCheckpoints(folder) as kept:
                start = time.perf_counter()
                kept.save(self.state, Position())
                kept.wait()
                written = time.perf_counter() - start
                yield (
                    f"{gib(size)} checkpoint written to {self.flags.checkpoint_dir}",
                    f"{written:,.1f} s ({size / written / 1e6:,.0f} MB/s)",
                )
                start = time.perf_counter()
                again = jax.block_until_ready(kept.restore(int(self.state.step), like, Position()))
                read = time.perf_counter() - start
            yield "restored", f"{read:,.1f} s ({size / read / 1e6:,.0f} MB/s)"
            same = jax.jit(
                lambda a, b: jnp.all(
                    jnp.stack(jax.tree.leaves(jax.tree.map(jnp.array_equal, a, b)))
                )
            )
            if not bool(same(self.state, again)):
                raise ValueError("what was restored is not what was saved")
            yield "equal to the bit", "yes"
        finally:
            if jax.process_index() == 0:
                files.remove_tree(folder)


def timed(function: Callable[[], Any], repeats: int) -> list[float]:
    """Returns the seconds of the first call and of `repeats` more."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(jax.tree.leaves(function()))
        seconds.append(time.perf_counter() - start)
    return seconds


def gib(size: float) -> str:
    return f"{size / chips.GIB:,.2f} GiB"


def say(name: str, value: str) -> None:
    if jax.process_index() == 0:
        print(f"| {name} | {' '.join(value.split())} |", flush=True)


def main(arguments: list[str]) -> None:
    bindings, rest = gin_config.split_bindings(arguments)
    flags = parser().parse_args(rest[1:])
    flags.bindings = [f"--gin.{binding}" for binding in bindings]
    if flags.multihost:
        jax.distributed.initialize()
    flags.run_id = uuid.uuid4().hex[:8] if jax.process_count() == 1 else "pod"
    devices.announce()
    size = flags.size or default_size()
    flags.leaf = flags.leaf or f"gin/experiments/seed_{size}.gin"
    leaf = recipe.read([flags.leaf], bindings)
    memory = partitioning.device_memory()
    shape, why = leaf.mesh_shape, "the leaf's"
    if shape is None:
        shape, why = planning.choose_shape(
            len(jax.devices()), leaf.config, leaf.batch_size, leaf.num_microbatches, memory
        )
    say("check_hardware", flags.leaf + "".join(f" {binding}" for binding in bindings))
    say("---", "---")
    say("devices", f"{devices.summary()}, {gib(memory) if memory else 'memory not told'} each")
    say(
        "versions",
        f"Python {sys.version.split()[0]}, jax {jax.__version__}, jaxlib {jax.lib.__version__}",
    )
    say("mesh (data, fsdp, model)", f"{shape}: {why}")
    count = sum(
        leaf.size for leaf in jax.tree.leaves(checkpoints.abstract_variables(leaf.config)["params"])
    )
    say("parameters", f"{count:,}, computed in {jnp.dtype(leaf.config.dtype).name}")
    check = Check(flags, leaf, shape)
    failed = []
    for part in (check.product, check.training, check.plan, check.decoding, check.checkpoint):
        if part.__name__ in flags.skip:
            say(part.__name__, "left out (--skip)")
            continue
        try:
            for name, value in part():
                say(name, value)
        except Exception as error:  # noqa: BLE001 - whatever a driver or compiler raises, the next part is still worth its try
            failed.append(part.__name__)
            say(f"{part.__name__} FAILED", f"{type(error).__name__}: {str(error)[:500]}")
    if failed:
        sys.exit(f"check_hardware: failed: {', '.join(failed)}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--size", choices=SIZES, help="of seed_SIZE.gin; default: by the devices' memory")
    add("--leaf", help="a leaf instead of a size")
    add("--steps", type=int, default=8, help="timed steps")
    add("--new_tokens", type=int, default=128, help="decoded per row")
    add(
        "--checkpoint_dir",
        default="/tmp",
        help="where a checkpoint is tried; may be in a bucket; on a pod all hosts must see it",
    )
    add(
        "--skip",
        type=lambda text: text.split(","),
        default=[],
        help="parts left out, of product,training,plan,decoding,checkpoint",
    )
    add(
        "--multihost",
        action="store_true",
        help="several processes that find each other (Cloud TPU, Slurm)",
    )
    return made


if __name__ == "__main__":
    command.run(main, sys.argv)
