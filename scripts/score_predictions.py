"""Records how probable a model found every token of its saved predictions, so that the report can colour them.

    python scripts/score_predictions.py --run=runs/quickstart

Writes teacher records to EVALUATION/token_probs/PREDICTION_FILE/ beside every prediction file of the run; files that have them are
skipped. The texts are shown to the checkpoint that wrote them (`inspection/student.py` says what that means).
"""

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from cotdistill_jax import checkpoints, command, files, inference, teacher
from cotdistill_jax.inference import prompts, selection
from cotdistill_jax.inspection import student
from cotdistill_jax.report import predictions_table, run_files


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="folder of the run")
    parser.add_argument("--batch_size", type=int, default=64, help="texts scored together")
    parser.add_argument("--data_dir", help="benchmark folder; default: COTDISTILL_DATA_DIR")
    flags = parser.parse_args(arguments)
    try:
        run = run_files.read_run(flags.run)
        for evaluation in run.evaluations:
            folder = evaluation.folder / predictions_table.TOKEN_PROBS_FOLDER
            files = [f for f in evaluation.prediction_files if not (folder / f.stem).exists()]
            if files:
                (chosen,) = selection.select(str(_checkpoint(run, evaluation)))
                model = selection.load(chosen)
                for file in files:
                    _score_file(model, file, folder / file.stem, flags)
    except (ValueError, KeyError, FileNotFoundError) as error:
        sys.exit(str(error.args[0]))


def _checkpoint(run: run_files.Run, evaluation: run_files.Evaluation) -> files.Path:
    """Returns the checkpoint of an evaluation: in the run itself, or where `results.json` says."""
    own = run.training / f"checkpoint_{evaluation.step}" if run.training else None
    return own if own and own.exists() else files.as_path(evaluation.checkpoint)


def _score_file(
    model: checkpoints.Model,
    file: files.Path,
    folder: files.Path,
    flags: argparse.Namespace,
) -> None:
    predictions = inference.read_predictions(file)
    if not predictions:
        return
    prompt = prompts.build(predictions[0].prompt, predictions[0].benchmark, flags.data_dir)
    asked = [
        student.Asked(p.id, p.sample_id, p.question, p.gold, prompt.render(p.question), p.text)
        for p in predictions
    ]
    scored = student.score_texts(model, asked, flags.batch_size)
    settings = {"scored": "teacher forcing", "predictions": file.name, "step": model.step}
    with teacher.RecordWriter(folder, config=settings) as writer:
        for record in tqdm(scored, total=len(asked), unit="text", desc=file.stem):
            writer.write(record)


if __name__ == "__main__":
    command.run(main)
