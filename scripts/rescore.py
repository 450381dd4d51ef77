"""Grades saved predictions anew by every answer rule, without a model.

    python scripts/rescore.py --predictions=runs/tiny/evaluation/predictions/gsm8k.zero_shot_cot.jsonl
    python scripts/rescore.py --predictions=A.jsonl --versus=B.jsonl      # paired, on the same questions
    python scripts/rescore.py --predictions=gsm8k_dev.txt --transcript_of=gsm8k      # an output file of the paper's code
    python scripts/rescore.py --predictions=A.jsonl --write_transcript=A.txt         # such a file, for the paper's own grader

Prints the accuracy by every rule side by side and, per rule, the texts that it judges otherwise than the headline
rule. A file of drawn samples is voted on. No prediction file is changed.
"""

import argparse
from collections.abc import Sequence

from cotdistill_jax import command, inference
from cotdistill_jax.inference import Prediction, comparison, predictions, seed_transcripts, voting


def main(arguments: Sequence[str] | None = None) -> None:
    flags = _parser().parse_args(arguments)
    saved = _read(flags.predictions, flags.transcript_of)
    graded = [predictions.regraded(prediction) for prediction in saved]
    changed = sum(old != new for old, new in zip(saved, graded, strict=True))
    rows = _results(flags.predictions, graded)
    if flags.versus:
        others = _read(flags.versus, flags.transcript_of)
        others = [predictions.regraded(prediction) for prediction in others]
        rows += _results(flags.versus, others)
    print(inference.table(rows))
    print(f"\ngrades that changed since they were saved: {changed}")
    if flags.write_transcript:
        seed_transcripts.write(flags.write_transcript, graded)
        print(f"written as a transcript: {len(graded)} texts, {flags.write_transcript}")
    _print_disagreements(graded, flags.show)
    if flags.versus:
        _print_comparisons(graded, others)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--predictions", required=True, help="prediction file of an evaluation")
    add("--versus", help="second file for the same questions: McNemar's exact test, by every rule")
    add("--transcript_of", help="benchmark of files that the paper's code wrote (Q:, A_model:, A:)")
    add("--write_transcript", help="file to write the texts to as the paper's code did")
    add("--show", type=int, default=10, help="disagreements printed per rule; all are counted")
    return parser


def _read(path: str, transcript_of: str | None) -> list[Prediction]:
    if transcript_of:
        return seed_transcripts.read(path, transcript_of, "transcript")
    return predictions.read(path)


def _results(path: str, graded: Sequence[Prediction]) -> list[inference.Result]:
    """Returns one result, or for a file of drawn samples one per number of votes."""
    if not graded:
        raise ValueError(f"rescore: {path} holds no predictions")
    name = graded[0].benchmark, graded[0].prompt
    if any(prediction.sample_id for prediction in graded):
        return voting.curve(*name, graded)
    return [inference.tally(*name, graded)]


def _print_disagreements(graded: Sequence[Prediction], show: int) -> None:
    headline, *others = inference.rules_for(graded[0].benchmark)
    for rule in others:
        found = comparison.disagreements(graded, rule, headline)
        stricter = sum(prediction.correct[headline] for prediction in found)
        print(
            f"\n{rule} disagrees with {headline} on {len(found)} texts: {stricter} wrong instead of right, "
            f"{len(found) - stricter} right instead of wrong"
        )
        for p in found[:show]:
            print(
                f"  {p.id}  gold {p.gold!r}  {headline} reads {p.extracted[headline]!r}, {rule} reads "
                f"{p.extracted[rule]!r:.80}  in {p.text[-60:]!r}"
            )
        if len(found) > show:
            print(f"  ... and {len(found) - show} more (--show={len(found)} lists all)")


def _print_comparisons(left: Sequence[Prediction], right: Sequence[Prediction]) -> None:
    print("\nfirst file against second, paired (exact McNemar):")
    for rule in inference.rules_for(left[0].benchmark):
        found = inference.compare(left, right, rule)
        print(
            f"  {rule:<28}difference {found.difference:+.2%}  p = {found.p_value:.4f}  both right {found.both}, "
            f"only first {len(found.only_left)}, only second {len(found.only_right)}, neither {found.neither}"
        )


if __name__ == "__main__":
    command.run(main)
