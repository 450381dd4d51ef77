"""Chooses among the drawn samples of every question with a trained verifier, and compares that with voting and greedy.

    python scripts/rerank.py --verifier=RUN --predictions=SAMPLES/predictions/arith.zero_shot_cot.samples.jsonl \
        --greedy=EVAL/predictions/arith.zero_shot_cot.jsonl --output_dir=RERANKED

The best sample and the vote weighted by a score, for three scores: the verifier's verdict, its likelihood of the text as a right
answer, and the student's own probability of it, which needs no verifier (`inference/verification.py` defines them).

Writes `scores.jsonl` (one line per sample), `results.json` (every choice among the first 1, 2, 4, ... samples) and a manifest.
Prints the table and the paired comparisons (exact McNemar) with greedy and with the vote. Several files are taken as one set of
questions.
"""

import argparse
import json
from collections.abc import Mapping, Sequence

import cotdistill_jax
from cotdistill_jax import command, files, inference
from cotdistill_jax.files import file_sha256, write_json_atomically
from cotdistill_jax.inference import (
    Prediction,
    results,
    scoring,
    selection,
    verification,
    verifier_model,
    voting,
)
from cotdistill_jax.teacher.shards import MANIFEST_NAME


def main(arguments: Sequence[str] | None = None) -> None:
    flags = _parser().parse_args(arguments)
    samples = _read(flags.predictions)
    (chosen,) = selection.select(flags.verifier)
    verifier = verifier_model.Verifier(selection.load(chosen, flags.vocab), flags.batch_size)
    found = verifier.judge([s.question for s in samples], [s.text for s in samples])
    judgements = {sample.key: one for sample, one in zip(samples, found, strict=True)}
    scores = {
        "verdict": {key: one.verdict for key, one in judgements.items()},
        "likelihood": {key: one.likelihood for key, one in judgements.items()},
        "student": verification.student_scores(samples),
    }
    folder = flags.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in verification.judgements_to_json(judgements)]
    (folder / "scores.jsonl").write_text("".join(lines), encoding="utf-8")
    tallies, last = _tallies(samples, scores)
    results.write(folder, str(chosen.path), chosen.step, tallies)
    rule = scoring.rules_for(samples[0].benchmark)[0]
    areas = {
        name: verification.separation(samples, values, rule) for name, values in scores.items()
    }
    _write_manifest(folder, flags, len(samples), areas)
    print(inference.table(tallies))
    print(f"\nverifier step {chosen.step}; area under the ROC curve of each score:")
    for name, area in areas.items():
        shown = "undefined: all samples right, or all wrong" if area is None else f"{area:.3f}"
        print(f"  {name:<12}{shown}")
    baselines = {"vote": last.pop("vote")}
    if flags.greedy:
        baselines["greedy"] = _read(flags.greedy)
    _print_comparisons(last, baselines, rule)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--verifier", required=True, help="run or Hugging Face folder of a trained verifier")
    add("--predictions", required=True, nargs="+", help="files of drawn samples")
    add("--greedy", nargs="+", help="files of greedy predictions for the same questions")
    add("--output_dir", required=True, type=files.as_path, help="made where missing")
    add("--vocab", help="SentencePiece model, where the verifier's folder has none")
    add("--batch_size", type=int, default=64)
    return parser


def _read(files: Sequence[str]) -> list[Prediction]:
    return [prediction for file in files for prediction in inference.read_predictions(file)]


def _tallies(
    samples: Sequence[Prediction], scores: Mapping[str, verification.Scores]
) -> tuple[list[inference.Result], dict[str, list[Prediction]]]:
    """Returns the result of every choice among the first 1, 2, 4, ... samples; and the choices among all of them."""
    choices: dict[str, tuple[verification.Choice, verification.Scores]] = {
        "vote": (verification.vote, {})
    }
    for name, values in scores.items():
        choices[f"{name}_best"] = verification.best_of, values
        choices[f"{name}_weighted_vote"] = verification.weighted_winner, values
    most = max(sample.sample_id for sample in samples) + 1
    tallies = []
    last: dict[str, list[Prediction]] = {}
    for choice, (choose, values) in choices.items():
        for size in voting.sizes(most):
            some = [sample for sample in samples if sample.sample_id < size]
            last[choice] = verification.chosen(some, choose, values)
            prompt = f"{samples[0].prompt}@{size}:{choice}"
            tallies.append(scoring.tally(samples[0].benchmark, prompt, last[choice]))
    return tallies, last


def _print_comparisons(
    choices: Mapping[str, list[Prediction]], baselines: Mapping[str, list[Prediction]], rule: str
) -> None:
    """Prints every choice against each baseline, and the vote against greedy."""
    pairs = [(name, base) for base in baselines for name in choices]
    if "greedy" in baselines:
        pairs.insert(0, ("vote", "greedy"))
    everything = {**choices, **baselines}
    print()
    for name, base in pairs:
        found = inference.compare(everything[name], everything[base], rule)
        print(
            f"{name} against {base}: {found.difference:+.1%} of {found.n} questions, p = {found.p_value:.2g} "
            f"(only {name} {len(found.only_left)}, only {base} {len(found.only_right)})"
        )


def _write_manifest(
    folder: files.Path,
    flags: argparse.Namespace,
    num_samples: int,
    areas: Mapping[str, float | None],
) -> None:
    manifest = {
        "artefact": "reranking",
        "schema_version": verification.SCHEMA_VERSION,
        "code_version": cotdistill_jax.__version__,
        "config": {"verifier": flags.verifier, "batch_size": flags.batch_size},
        "inputs": {file: file_sha256(file) for file in flags.predictions},
        "counts": {"in": num_samples, "out": num_samples},
        "area_under_roc": dict(areas),
    }
    write_json_atomically(folder / MANIFEST_NAME, manifest)


if __name__ == "__main__":
    command.run(main)
