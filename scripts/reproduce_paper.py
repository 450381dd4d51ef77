"""The paper's job: its released data -> `seed` corpus -> FlanT5's weights -> training -> four sets and BBH -> table -> report.

bash scripts/reproduce_paper.sh --size=xl --release=processed_data       (makes the environment first, then runs this file)

Every stage is a public command, printed before it runs; running this file again continues where it was interrupted.
"""

import functools
import os
import pathlib
import subprocess
import sys

from absl import app, flags

from cotdistill_jax import command, files, inference
from cotdistill_jax.benchmarks import sources
from cotdistill_jax.report import references

SIZES = {
    "tiny": None,
    "base": "google/flan-t5-base",
    "large": "google/flan-t5-large",
    "xl": "google/flan-t5-xl",
    "xxl": "google/flan-t5-xxl",
}
MATHS = ("gsm8k", "gsm8k:dev", "multiarith:test_400", "asdiv", "svamp")
MATHS_PROMPTS = ("zero_shot_cot", "cot_4_cases")
BBH_PROMPTS = ("cot_4_cases", "answer_only_4_cases")

_SIZE = flags.DEFINE_enum("size", None, list(SIZES), "Size of the student.", required=True)
_RELEASE = flags.DEFINE_string(
    "release", None, "The paper's released folder processed_data.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output_dir", None, "Folder of all artefacts; default: runs/paper_SIZE."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Benchmark folder, filled where it is not; default: COTDISTILL_DATA_DIR, or data.",
)
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Weights to start from: a name or a folder; default: FlanT5 of the size, for tiny drawn ones.",
)
_LEAF = flags.DEFINE_string("leaf", None, "Experiment leaf; default: seed_SIZE.")
_BINDINGS = flags.DEFINE_multi_string(
    "gin", [], "Extra gin binding of the training run: NAME=VALUE."
)
_ALLOW_CPU = flags.DEFINE_bool(
    "allow_cpu", False, "Train a size above tiny where JAX sees no accelerator: months."
)
_BENCHMARKS = flags.DEFINE_list(
    "benchmarks", [*MATHS, "bbh"], "What is evaluated; with :<split> for another split than test."
)
_BEFORE = flags.DEFINE_bool("before", True, "Also evaluate the weights that training starts from.")
_EVALUATION = flags.DEFINE_multi_string(
    "evaluation", [], "Extra flag of the evaluation: NAME=VALUE, such as dtype=bfloat16."
)
ROOT = pathlib.Path(__file__).parents[1]
_stage = functools.partial(command.stage, folder=ROOT)
_TINY = ("num_examples=2", "max_new_tokens=8")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    size, release = (
        _SIZE.value,
        files.local_path(_RELEASE.value, "reproduce", "the release").absolute(),
    )
    if not release.is_dir():
        raise FileNotFoundError(
            f"reproduce_paper: no folder {release}. Download the original's processed_data (its README has the link) and name it"
        )
    output = files.local_path(
        _OUTPUT.value or f"runs/paper_{size}", "reproduce", "its output"
    ).absolute()
    said = _DATA_DIR.value or os.environ.get("COTDISTILL_DATA_DIR", "data")
    data = files.local_path(said, "reproduce", "the benchmark folder").absolute()
    run, weights = output / "run", _WEIGHTS.value or SIZES[size]
    if weights is not None and os.path.isdir(weights):
        weights = os.path.abspath(weights)
    _check_devices()
    files.refuse_pattern(os.fspath(run), "reproduce_paper", "run folder", "Orbax")
    os.environ["COTDISTILL_DATA_DIR"] = os.fspath(data)
    os.environ["COTDISTILL_TFDS_DIR"] = os.fspath(output / "corpora")

    if not all((data / source.path).exists() for source in sources.SOURCES):
        _stage("1 of 7: benchmarks", "scripts/download_benchmarks.py", f"--data_dir={data}")
    else:
        print(f"== 1 of 7: benchmarks: {data} is there")
    _stage(
        "2 of 7: the release, imported",
        *("scripts/import_seed_data.py", f"--processed_data={release}"),
        f"--output_dir={output / 'seed'}",
    )
    _stage(
        "3 of 7: the corpus",
        *("scripts/build_corpus.py", "--corpus=seed"),
        f"--formatted_dir={output / 'seed' / 'formatted'}",
    )
    if weights is None:
        print("\n== 4 of 7: weights: drawn, as no published model is so small")
    else:
        source = "source_dir" if os.path.isdir(weights) else "name"
        _stage("4 of 7: weights", "scripts/fetch_weights.py", f"--{source}={weights}")
    _stage(
        "5 of 7: training, with the original's schedule",
        *("-m", "cotdistill_jax.train"),
        f"--gin_file=gin/experiments/{_LEAF.value or f'seed_{size}'}.gin",
        *("--gin_file=gin/schedules/seed_cosine.gin", "--gin_file=gin/runs/finetune.gin"),
        f"--gin.MODEL_DIR={os.fspath(run)!r}",
        f"--gin.INITIAL_CHECKPOINT_PATH={weights!r}",
        *(f"--gin.{binding}" for binding in _BINDINGS.value),
    )
    folders = {"after": output / "evaluation"}
    if _BEFORE.value and weights is not None:
        folders["before"] = output / "evaluation_before"
        _evaluate("6 of 7: evaluation of the weights", weights, folders["before"])
    _evaluate("6 of 7: evaluation", os.fspath(run), folders["after"])
    _stage(
        "7 of 7: the report",
        *("-m", "cotdistill_jax.report", f"--run={output}"),
        f"--output={output / 'report.html'}",
    )
    print_table({name: inference.read_results(folder) for name, folder in folders.items()})
    print(f"\nArtefacts: {output}/report.html, run, evaluation (predictions, results.json)")


def _check_devices() -> None:
    """Says what JAX computes on; refuses a real size on CPUs, which JAX falls back to in silence."""
    ask = (
        "import jax; print(len(jax.devices()), jax.default_backend(), jax.devices()[0].device_kind)"
    )
    # In a process of its own, which gives the memory of an accelerator back.
    asked = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    number, backend, kind = asked.stdout.split(maxsplit=2)
    print(f"== devices: {number} x {kind.strip()} ({backend})")
    if backend == "cpu" and _SIZE.value != "tiny" and not _ALLOW_CPU.value:
        raise ValueError(
            f"reproduce_paper: JAX sees no accelerator, and --size={_SIZE.value} takes months without one. On a machine with NVIDIA GPUs, "
            "`source scripts/environment.sh cuda`; on TPU VMs `source scripts/environment.sh tpu`; --allow_cpu goes on all the same"
        )


def _evaluate(title: str, checkpoint: str, folder: pathlib.Path) -> None:
    """Evaluates a checkpoint on the maths sets and on BBH, each with both of its prompts."""
    extra = [*(_TINY if _SIZE.value == "tiny" else ()), *_EVALUATION.value]
    general = [name for name in _BENCHMARKS.value if name.startswith("bbh")]
    maths = [name for name in _BENCHMARKS.value if name not in general]
    for benchmarks, prompts in ((maths, MATHS_PROMPTS), (general, BBH_PROMPTS)):
        if not benchmarks:
            continue
        _stage(
            f"{title}: {', '.join(benchmarks)}",
            *("-m", "cotdistill_jax.inference", f"--checkpoint={checkpoint}"),
            *(f"--benchmarks={','.join(benchmarks)}", f"--prompt={','.join(prompts)}"),
            *(f"--{flag}" for flag in extra),
            f"--output_dir={folder}",
        )


def print_table(results: dict[str, list[inference.Result]]) -> None:
    """Prints per cent right before and after, with the 95 % interval, and under each benchmark what the paper's code printed.

    Args:
        results: of `after` and, where they were evaluated, of the weights `before`.
    """
    before = {(r.benchmark, r.prompt): r for r in results.get("before", [])}
    print(f"\n{'benchmark':24s}{'prompt':22s}{'n':>6s}{'before':>8s}{'after':>8s}  95 % interval")
    for name in _BENCHMARKS.value:
        for result in results["after"]:
            if result.benchmark != name:
                continue
            score = result.scores[result.headline]
            first = before.get((name, result.prompt))
            earlier = f"{100 * first.scores[first.headline].accuracy:.1f}" if first else "–"
            low, high = (100 * bound for bound in score.interval_95)
            print(
                f"{name:24s}{result.prompt:22s}{score.n:6d}{earlier:>8s}{100 * score.accuracy:8.1f}  {low:.1f} to {high:.1f}"
            )
        for reference in references.for_benchmark(name):
            if reference.benchmark != "gsm8k:train":
                print(
                    f"  printed by the paper's code: {reference.model}, {reference.prompt}, n = {reference.n}: {reference.accuracy}"
                )


if __name__ == "__main__":
    command.run(app.run, main)
