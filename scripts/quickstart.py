"""The whole pipeline on the embedded problems: a teacher behind HTTP is decoded, filtered and aligned; a student trained, evaluated, reported.

The teacher is synthetic and answers on this machine, behind an OpenAI-compatible endpoint (scripts/serve_synthetic_teacher.py); all else is
what a real one would get.

bash scripts/quickstart.sh        (makes the environment first, then runs this file)

Every stage is a public command, printed before it runs; running this file again continues where it was interrupted.
"""

import functools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from absl import app, flags

from cotdistill_jax import benchmarks, checkpoints, command, corpus, files, inference
from cotdistill_jax.benchmarks import arith

_OUTPUT = flags.DEFINE_string("output_dir", "runs/quickstart", "Folder of all artefacts.")
_BINDINGS = flags.DEFINE_multi_string(
    "gin", [], "Extra gin binding of the training run: NAME=VALUE."
)

ROOT = pathlib.Path(__file__).parents[1]
_stage = functools.partial(command.stage, folder=ROOT)
PROMPTS = {
    "zero_shot_cot": "zero-shot CoT",
    "cot_4_cases": "in-context CoT",
    "zero_shot_answer_only": "zero-shot answer-only",
    "answer_only_4_cases": "in-context answer-only",
}
NUM_QUESTIONS = 16_000
# Per cent right after training at least; every format below BEFORE_AT_MOST before it.
TARGETS = {"zero_shot_cot": 85.0, "cot_4_cases": 60.0}
BEFORE_AT_MOST = 5.0


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the endpoint ends too
    start = time.monotonic()
    output = files.local_path(_OUTPUT.value, "quickstart", "its output").absolute()
    corpora, run, evaluation = output / "corpora", output / "run", output / "evaluation"
    files.refuse_pattern(os.fspath(run), "quickstart", "run folder", "Orbax")
    os.environ["COTDISTILL_TFDS_DIR"] = os.fspath(corpora)

    _decode(output)
    _stage(
        "2 of 6: alignment of its tokens to the student's",
        *("scripts/align_teacher.py", f"--records={output / 'records'}", "--workers=2"),
        f"--vocab={corpus.arith_vocabulary()}",
        f"--output_dir={output / 'aligned'}",
    )
    _stage(
        "3 of 6: the corpus, right answers alone",
        *("scripts/build_corpus.py", "--corpus=arith", f"--aligned_dir={output / 'aligned'}"),
        f"--tfds_data_dir={corpora}",
    )
    _stage(
        "4 of 6: training",
        *("-m", "cotdistill_jax.train"),
        "--gin_file=gin/experiments/arith_quickstart.gin",
        "--gin_file=gin/runs/finetune.gin",
        f"--gin.MODEL_DIR={os.fspath(run)!r}",
        *(f"--gin.{binding}" for binding in _BINDINGS.value),
    )
    steps_done = checkpoints.list_steps(run)
    _stage(
        "5 of 6: evaluation before and after training",
        *("-m", "cotdistill_jax.inference"),
        f"--checkpoint={run}",
        f"--steps={steps_done[0]},{steps_done[-1]}",
        "--benchmarks=arith",
        f"--prompt={','.join(PROMPTS)}",
        "--max_new_tokens=48",
        "--batch_size=200",
        f"--output_dir={evaluation}",
    )
    _stage(
        "6 of 6: the report",
        *("-m", "cotdistill_jax.report"),
        f"--run={output}",
        f"--output={output / 'report.html'}",
    )
    _print_table(evaluation, output, time.monotonic() - start)


def _decode(output: pathlib.Path) -> None:
    """Decodes the teacher: starts its endpoint, asks the training problems, ends it."""
    output.mkdir(parents=True, exist_ok=True)
    address = output / "endpoint.json"
    address.unlink(missing_ok=True)
    serve = ["scripts/serve_synthetic_teacher.py", "--port=0", f"--port_file={address}"]
    print(f"$ python {shlex.join(serve)} &", flush=True)
    with subprocess.Popen([sys.executable, *serve], cwd=ROOT) as server:
        try:
            while not address.exists():
                if server.poll() is not None:
                    sys.exit(f"quickstart: the endpoint ended with status {server.returncode}")
                time.sleep(0.1)
            _stage(
                "1 of 6: the teacher, asked over HTTP",
                *("scripts/decode_teacher.py", f"--base_url={json.loads(address.read_text())}"),
                *("--model=synthetic", "--benchmark=arith", "--split=train"),
                *(f"--limit={NUM_QUESTIONS}", "--prompt=zero_shot_cot", "--max_tokens=128"),
                *("--concurrency=16", "--yes", f"--output_dir={output / 'records'}"),
            )
        finally:
            server.terminate()


def _print_table(evaluation: pathlib.Path, output: pathlib.Path, seconds: float) -> None:
    """Prints the table: accuracy per format before and after, and after by number of steps."""
    steps_done = checkpoints.list_steps(output / "run")
    folders = [evaluation / f"checkpoint_{step}" for step in (steps_done[0], steps_done[-1])]
    before, after = map(_accuracies, folders)
    steps = {
        question.id: arith.num_steps(question) for question in benchmarks.load("arith", "test")
    }
    print(f"\n== {len(steps)} unseen problems, per cent right (95 % interval)\n")
    print(
        f"{'format':24s}{'before':>8s}{'after':>8s}{'interval':>16s}{'2 steps':>9s}{'3 steps':>9s}"
    )
    for prompt, title in PROMPTS.items():
        score = after[prompt]
        low, high = (100 * bound for bound in score.interval_95)
        split = [_accuracy_of(folders[-1], prompt, steps, number) for number in (2, 3)]
        print(
            f"{title:24s}{100 * before[prompt].accuracy:8.1f}{100 * score.accuracy:8.1f}"
            f"{f'{low:.1f} to {high:.1f}':>16s}{split[0]:9.1f}{split[1]:9.1f}"
        )
    checks = [
        (f"{PROMPTS[prompt]} at least {target:.0f} %", 100 * after[prompt].accuracy >= target)
        for prompt, target in TARGETS.items()
    ]
    checks += [
        (
            f"each under {BEFORE_AT_MOST:.0f} % before",
            all(100 * s.accuracy < BEFORE_AT_MOST for s in before.values()),
        ),
        (
            "CoT above answer-only, intervals apart",
            after["zero_shot_cot"].interval_95[0] > after["zero_shot_answer_only"].interval_95[1]
            and after["cot_4_cases"].interval_95[0] > after["answer_only_4_cases"].interval_95[1],
        ),
    ]
    print(
        "\nTargets: " + "; ".join(f"{name}: {'met' if met else 'MISSED'}" for name, met in checks)
    )
    print(f"Time: {seconds / 60:.1f} minutes after installation (target: 6)")
    print(
        f"Artefacts: {output}/report.html, {output}/run (checkpoints, metrics.jsonl, TensorBoard), "
        f"{output}/evaluation (predictions, results.json)"
    )


def _accuracies(folder: pathlib.Path) -> dict[str, inference.Score]:
    results = inference.read_results(folder)
    return {result.prompt: result.scores[result.headline] for result in results}


def _accuracy_of(folder: pathlib.Path, prompt: str, steps: dict[str, int], number: int) -> float:
    """Returns the accuracy, in per cent, on the problems of so many steps."""
    saved = inference.read_predictions(folder / "predictions" / f"arith.{prompt}.jsonl")
    verdicts = [p.correct["last_number"] for p in saved if steps[p.id] == number]
    return 100 * sum(verdicts) / len(verdicts)


if __name__ == "__main__":
    command.run(app.run, main)
