"""Draws how probable the tokens of a rationale are: the flow (a bar per token) and the heat map of the top candidates.

    python scripts/plot_token_probs.py --records=DIR --question_id=gsm8k/train/0 --output=tokens.html
    python scripts/plot_token_probs.py --records=DIR --checkpoint=runs/quickstart/run --output=flow.png --picture=flow
    python scripts/plot_token_probs.py --predictions=FILE.jsonl --checkpoint=runs/quickstart/run --output=tokens.html

`--records` is a folder of teacher records, `--predictions` a prediction file. With `--checkpoint` our student is shown the same
rationale and drawn beside the teacher. `.html` holds both pictures; `.png` and `.svg` the one that `--picture` names.
"""

import argparse
import sys
from collections.abc import Sequence

from cotdistill_jax import command, inference, teacher
from cotdistill_jax.inference import prompts
from cotdistill_jax.report import pictures
from cotdistill_jax.teacher import TeacherRecord


def main(arguments: Sequence[str] | None = None) -> None:
    flags = _parser().parse_args(arguments)
    try:
        shown = _records(flags)
        drawings = pictures.token_pictures(shown)
        if flags.picture:
            drawings = {flags.picture: drawings[flags.picture]}
        first = next(iter(shown.values()))
        pictures.write_pictures(drawings, first, flags.output, flags.theme)
    except (ValueError, KeyError, FileNotFoundError) as error:
        sys.exit(str(error.args[0]))
    print(f"{first.question_id}, sample {first.sample_id}: {', '.join(shown)} in {flags.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--records", help="folder of teacher records")
    source.add_argument(
        "--predictions", help="prediction file of an evaluation; needs --checkpoint"
    )
    add("--question_id", help="which question; default: the first")
    add("--sample_id", type=int, help="which of its samples; default: the first")
    add(
        "--checkpoint",
        help="run, checkpoint_N or Hugging Face folder of a student, shown the same rationale",
    )
    add("--vocab", help="SentencePiece model, where the checkpoint has none")
    add("--benchmark", default="arith", help="benchmark whose demonstrations --prompt takes")
    add("--prompt", default="zero_shot_cot", help="prompt mode of the student")
    add("--data_dir", help="benchmark folder; default: COTDISTILL_DATA_DIR")
    add("--picture", choices=pictures.TOKEN_PICTURES, help="one picture; default: both, as .html")
    add("--theme", choices=("light", "dark"), default="light", help="colours of .png and .svg")
    add("--output", required=True, help="file to write: .html, .png or .svg")
    return parser


def _records(flags: argparse.Namespace) -> dict[str, TeacherRecord]:
    """Returns the records to draw, by the name that is written beside them."""
    if flags.records:
        found = list(teacher.read_records(flags.records))
        record = pictures.find_record(found, flags.question_id, flags.sample_id)
        shown = {"teacher": record}
        said = (record.question_id, record.sample_id, record.question, record.gold, record.text)
        asked_as = flags.prompt, flags.benchmark
    else:
        if not flags.checkpoint:
            raise ValueError(
                "plot_token_probs: --predictions needs the --checkpoint that made them"
            )
        chosen = _prediction(flags)
        shown = {}
        said = (chosen.id, chosen.sample_id, chosen.question, chosen.gold, chosen.text)
        asked_as = chosen.prompt, chosen.benchmark
    if flags.checkpoint:
        # Imported here: drawing a teacher's records needs no jax.
        from cotdistill_jax.inference import selection
        from cotdistill_jax.inspection import student

        prompt = prompts.build(*asked_as, flags.data_dir)
        question_id, sample_id, question, gold, text = said
        asked = student.Asked(question_id, sample_id, question, gold, prompt.render(question), text)
        (selected,) = selection.select(flags.checkpoint)
        model = selection.load(selected, flags.vocab)
        shown["student"] = next(student.score_texts(model, [asked], batch_size=1))
    return shown


def _prediction(flags: argparse.Namespace) -> inference.Prediction:
    for prediction in inference.read_predictions(flags.predictions):
        wanted = (flags.question_id or prediction.id, flags.sample_id or prediction.sample_id)
        if wanted == prediction.key:
            return prediction
    raise KeyError(
        f"plot_token_probs: {flags.predictions} has no {flags.question_id or 'prediction'}"
    )


if __name__ == "__main__":
    command.run(main)
