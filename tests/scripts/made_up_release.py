"""A small release of the paper's layout: 13 pickles, labels as NumPy numbers, real questions and invented samples.

COTDISTILL_DATA_DIR=data python tests/scripts/made_up_release.py processed_data
"""

import pathlib
import pickle
import sys
from typing import Any

import numpy as np
import sentencepiece

from cotdistill_jax import benchmarks, corpus, formats

NUM_QUESTIONS, NUM_SAMPLES = 24, 3
_TAIL = [[("\n", 1.0)], [("\n", 1.0)]]


def write(folder: pathlib.Path) -> None:
    """Writes the 13 files; every third sample is wrong, and one question stands there twice, as in the release."""
    folder.mkdir(parents=True)
    questions = benchmarks.load("gsm8k", "train")[:NUM_QUESTIONS]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(corpus.t5_vocabulary()))
    numbers = [int(question.id.rpartition("/")[2]) for question in questions]
    texts = [
        [_text(question.gold, sample) for sample in range(NUM_SAMPLES)] for question in questions
    ]
    labels = [[np.int64(sample != 1) for sample in range(NUM_SAMPLES)] for _ in questions]
    steps = [[_steps(text) for text in row] for row in texts]
    pieces = [
        [_pieces(text, processor) if label else None for text, label in zip(*row, strict=True)]
        for row in zip(texts, labels, strict=True)
    ]
    asked = [
        f"Question {number}: {question.question}\n"
        for number, question in zip(numbers, questions, strict=True)
    ]
    said = [[f"Model output {s}: \n{text}\n" for s, text in enumerate(row)] for row in texts]
    files: dict[str, list[Any]] = {
        "codex_questions": [*asked[:4], asked[3], *asked[4:]],
        "codex_answers": [f"Answer: {q.rationale}\n#### {q.gold}\n" for q in questions],
        "codex_predictions": said,
        "codex_per_step_probs": steps,
        "codex_prediction_labels": labels,
        "codex_updated_labels": [np.array(row) for row in labels],
        "codex_dtw_transformed_step_probs": pieces,
        "flan_predictions": [[f"Model output {s}: {t}\n" for s, t in enumerate(r)] for r in texts],
        "flan_prediction_labels": labels,
    }
    for name, form in formats.FORMATS.items():
        seed_name = name.replace("cot", "chain_of_thought")
        files[seed_name] = [
            _example(seed_name, form, questions, at, text, processor)
            for at, row in enumerate(texts)
            for sample, text in enumerate(row)
            if sample != 1 and (form.chain_of_thought or sample == 0)
        ]
    assert len(files) == 13
    for name, items in files.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(items))


def _text(gold: str, sample: int) -> str:
    return f"So it is {gold}{sample if sample == 1 else ''}\nThe answer is {gold}{sample if sample == 1 else ''}"


def _steps(text: str) -> list[list[tuple[str, float]]]:
    tokens = text.replace(" ", "| ").replace("\n", "|\n|").split("|")
    answer = [[(t, 0.75), (t, 0.75), (" 7", 0.125)] for t in tokens if t]
    return [[(" step", 1.0)], [("\n", 0.5)], *answer, *_TAIL]


def _pieces(text: str, processor: sentencepiece.SentencePieceProcessor) -> list[dict[str, float]]:
    found = processor.encode(text, out_type=str)
    return [
        {piece: 1.0} if at == 0 else {piece: 0.75, "▁7": 0.125} if piece != "▁7" else {piece: 0.9}
        for at, piece in enumerate(found)
    ]


def _example(
    seed_name: str,
    form: formats.Format,
    questions: Any,
    at: int,
    text: str,
    processor: sentencepiece.SentencePieceProcessor,
) -> dict[str, Any]:
    question = questions[at]
    shown = (
        [questions[(at + 1 + place) % len(questions)] for place in range(4)]
        if form.in_context
        else []
    )
    demonstrations = [form.render_demonstration(q.question, q.rationale, q.gold) for q in shown]
    target = text if form.chain_of_thought else f"The answer is {question.gold}"
    example = {
        "question": form.render_input(question.question.replace(": ", "").strip(), demonstrations),
        "answer": target,
        "answer_gold": f"Answer: {question.rationale}\n#### {question.gold}\n",
        "answer_label": 1,
        "type": seed_name,
    }
    if form.chain_of_thought:
        example["per_step_probs"] = _pieces(target, processor)
    return example


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
