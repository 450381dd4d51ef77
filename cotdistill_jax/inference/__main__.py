"""Evaluates checkpoints on benchmarks: predictions, accuracies by every answer rule, a table.

    python -m cotdistill_jax.inference --checkpoint=runs/xl --benchmarks=gsm8k,multiarith,asdiv,svamp \
        --prompt=zero_shot_cot,cot_4_cases --output_dir=runs/xl/evaluation --steps=all

With --num_samples=8 eight texts are drawn per question, and the results are those of voting among 1, 2, 4 and 8 of them.
Run the same command again to go on after an interruption; finished checkpoints are skipped. Compiled programs are kept for
the next call (--compilation_cache_dir). With --multihost every host of a pod or cluster runs this command: the model is split
over all devices, and the first host writes the files.
"""

import argparse
import functools
import math
import os
from collections.abc import Sequence

import jax

from cotdistill_jax import checkpoints, command, decoding, devices, files, partitioning
from cotdistill_jax.inference import (
    evaluation,
    generation,
    lengths,
    manifest,
    planning,
    processes,
    prompts,
    results,
    selection,
)
from cotdistill_jax.train import meeting

# What processes of one evaluation may be given differently: places on their own hosts, and who they are.
_OWN_FLAGS = ("checkpoint", "vocab", "data_dir", "compilation_cache_dir", "process_index")


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates what the command line asks for and prints one table per checkpoint."""
    flags = _parser().parse_args(arguments)
    if flags.compilation_cache_dir:
        folder = os.path.expanduser(flags.compilation_cache_dir)
        jax.config.update("jax_compilation_cache_dir", folder)
    if flags.multihost or flags.coordinator_address:
        meeting.connect(
            flags.coordinator_address,
            flags.process_count,
            flags.process_index,
            {name: str(value) for name, value in vars(flags).items() if name not in _OWN_FLAGS},
        )
    devices.announce()
    sampling = None
    if flags.num_samples is not None:
        sampling = planning.Sampling(
            flags.num_samples, flags.temperature, flags.top_k, flags.top_p, flags.seed
        )
    parts = processes.together(
        functools.partial(
            planning.plan,
            flags.benchmarks,
            flags.prompt,
            data_dir=flags.data_dir,
            num_examples=flags.num_examples,
            sampling=sampling,
        )
    )
    if flags.mesh:
        partitioning.make_mesh(flags.mesh)  # refuses a shape before anything is read
    limits = {
        "max_input_tokens": flags.max_input_tokens,
        "max_new_tokens": flags.max_new_tokens,
        "on_long_prompt": flags.on_long_prompt,
        "weights": flags.weights,
    }
    selected = processes.together(lambda: selection.select(flags.checkpoint, flags.steps))
    names = [(chosen.path.name, chosen.step, str(chosen.folder)) for chosen in selected]
    processes.check_same("checkpoints", names)
    for chosen in selected:
        folder = flags.output_dir / chosen.folder

        def finished(chosen: selection.Selected = chosen, folder: files.Path = folder) -> bool:
            checksum = manifest.folder_sha256(chosen.path)
            request = evaluation.request_settings(
                checksum, chosen.step, dtype=flags.dtype, **limits
            )
            return evaluation.is_finished(folder, request, parts)

        if processes.first_for_all(finished):
            found = results.read(folder) if processes.is_first() else []
            note = "finished before"
        else:
            opening = functools.partial(selection.open_model, chosen, flags.vocab)
            model = generation.with_dtype(processes.together(opening), flags.dtype)
            found = evaluation.evaluate(
                model,
                flags.benchmarks,
                flags.prompt,
                folder,
                data_dir=flags.data_dir,
                num_examples=flags.num_examples,
                batch_size=flags.batch_size,
                sampling=sampling,
                mesh=_mesh(flags.mesh, model, flags.batch_size),
                **limits,
            )
            note = "done"
        if processes.is_first():
            print(f"\n{chosen.path}: {note}, see {folder}\n{results.table(found)}", flush=True)


def _mesh(
    shape: tuple[int, ...] | None, model: checkpoints.Model, batch_size: int
) -> jax.sharding.Mesh | None:
    """Returns the mesh to decode on; of several processes chosen and said where no shape is given, of one then none."""
    if shape is None:
        if jax.process_count() == 1:
            return None
        shape, why = partitioning.choose_shape(
            len(jax.devices()),
            model.config,
            sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.params)),
            batch_size,
            1,
            partitioning.device_memory(),
            partitioning.WEIGHT_BYTES,
        )
        if processes.is_first():
            print(
                f"inference: --mesh={','.join(map(str, shape))} (data, fsdp, model) of {len(jax.devices())} devices of "
                f"{jax.process_count()} processes: {why}",
                flush=True,
            )
    return partitioning.make_mesh(shape)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cotdistill_jax.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        help="run folder (ours or T5X's), checkpoint_N folder in it, Hugging Face folder, or a glob of such; or a published name such as "
        "google/flan-t5-base",
    )
    add(
        "--vocab",
        help="SentencePiece model, where the checkpoint has no spiece.model (T5X's have none)",
    )
    add("--steps", help="of a run folder: all, latest or a list such as 100,200")
    add(
        "--benchmarks",
        required=True,
        type=_names,
        help="comma list of gsm8k, multiarith, asdiv, svamp, arith, bbh, bbh/<task>; with :<split> for "
        "another split than test, such as gsm8k:dev",
    )
    add(
        "--prompt",
        required=True,
        type=_names,
        help=f"comma list of {', '.join(prompts.MODES)}, {prompts.FILE_PREFIX}<path>",
    )
    add("--output_dir", required=True, type=files.as_path, help="made where missing")
    add("--data_dir", help="benchmark folder; default: the variable COTDISTILL_DATA_DIR")
    add("--num_examples", type=int, help="only the first so many questions of each benchmark")
    add("--max_input_tokens", type=int, default=evaluation.MAX_INPUT_TOKENS, help="EOS included")
    add("--max_new_tokens", type=int, default=evaluation.MAX_NEW_TOKENS, help="EOS included")
    add(
        "--on_long_prompt",
        choices=lengths.POLICIES,
        default="error",
        help="truncate: leave out demonstrations, first one first, then cut tokens from the front; counted",
    )
    add("--batch_size", type=int, default=32, help="texts decoded together")
    add(
        "--num_samples",
        type=int,
        help="texts drawn per question and voted on; default: greedy, one",
    )
    add("--temperature", type=float, default=0.7, help="of drawn texts")
    add("--top_k", type=int, help="tokens kept at every step of a drawn text; default: all")
    add("--top_p", type=float, help="probability kept at every step of a drawn text; default: all")
    add("--seed", type=int, default=0, help="of drawn texts")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of activations")
    add(
        "--weights",
        choices=decoding.WEIGHT_KINDS,
        default=decoding.FLOAT,
        help="the decoder's matrices; int8: a quarter of the memory; int8_dynamic: activations in 8 bits, too, the faster one "
        "on CPUs. Texts are no longer those of the float weights",
    )
    add(
        "--compilation_cache_dir",
        default=os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/cotdistill_jax/compilation"),
        help="where compiled programs are kept; default: the variable JAX_COMPILATION_CACHE_DIR, or %(default)s; empty: nowhere",
    )
    add(
        "--mesh",
        type=_shape,
        help="devices along data,model or data,fsdp,model; default: one device, of several processes all, as the model's size asks",
    )
    add(
        "--multihost",
        action="store_true",
        help="several processes that find each other (Cloud TPU, Slurm)",
    )
    add("--coordinator_address", help="host and port of process 0, where they do not")
    add("--process_count", type=int, help="number of processes, with --coordinator_address")
    add("--process_index", type=int, help="this process, from 0, with --coordinator_address")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


if __name__ == "__main__":
    command.run(main)
