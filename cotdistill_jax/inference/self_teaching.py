"""A student as teacher: its texts with the probabilities of the likeliest pieces, as teacher records.

They feed the same alignment, corpus and training as any other teacher's (`scripts/align_teacher.py`). A piece is written
as the characters that it stands for ("▁boxes" is " boxes"), so that the tokens of a record spell its text. Pieces that stand
for no characters (end of text, padding, unknown, extra ids) are left out of the candidates: their mass is missing
from the row, as a teacher's tail is.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cotdistill_jax import files
from cotdistill_jax.inference import lengths, scoring
from cotdistill_jax.inference.planning import Part
from cotdistill_jax.inference.vocabulary import EOS_ID, Vocabulary
from cotdistill_jax.teacher import RecordWriter, TeacherRecord

if TYPE_CHECKING:
    from cotdistill_jax import decoding
    from cotdistill_jax.inference.generation import Generator


def record_of(
    part: Part, answer: "decoding.Answer", row: int, vocabulary: Vocabulary, teacher: str
) -> TeacherRecord:
    """Returns the teacher record of one completion decoded with `top_k` alternatives.

    Args:
        part: says question, prompt and sampling.
        answer: the completion; a last EOS is not part of the record.
        row: place of its question in `part.questions`.
        vocabulary: the student's.
        teacher: name of the student.
    """
    question, completion = part.questions[row], answer.completion
    text = vocabulary.decode(completion.tokens)
    ids = [id_ for id_ in completion.tokens if id_ != EOS_ID]
    rows = []
    for step in range(len(ids)):
        pairs = zip(completion.top_ids[step], completion.top_log_probs[step], strict=True)
        spelled = [(vocabulary.characters(id_), math.exp(log_prob)) for id_, log_prob in pairs]
        rows.append(tuple((token, min(prob, 1.0)) for token, prob in spelled if token))
    _, correct = scoring.grade(text, question.gold, question.benchmark)
    sampling = part.sampling
    return TeacherRecord(
        question_id=question.id,
        sample_id=answer.sample,
        question=question.question,
        gold=question.gold,
        text=text,
        tokens=tuple(vocabulary.characters(id_) for id_ in ids),
        top_k=tuple(rows),
        label=correct[scoring.rules_for(question.benchmark)[0]],
        teacher=teacher,
        decode_settings={
            "prompt": part.prompt.mode,
            "temperature": sampling.temperature if sampling else 0.0,
            "seed": sampling.seed if sampling else None,
            "finished": completion.finished,
        },
    )


def write_records(
    folder: files.AnyPath,
    part: Part,
    inputs: Sequence[lengths.FittedPrompt],
    generator: "Generator",
    vocabulary: Vocabulary,
    teacher: str,
) -> int:
    """Writes the records of all questions of a part, going on where an interrupted call stopped; returns how many there are.

    A text that the length limit stopped is a record, too; its decode settings say so.

    Args:
        folder: of the records.
        part: one benchmark with one prompt.
        inputs: from `lengths.fit`, one per question.
        generator: made with `top_k` of at least 1.
        vocabulary: the student's.
        teacher: name of the student.
    """
    config = {"teacher": teacher, "top_k": generator.top_k, **part.settings}
    resume = files.as_path(folder).is_dir()
    with RecordWriter(folder, config=config, records_per_shard=1024, resume=resume) as writer:
        for record in _records(part, inputs, generator, vocabulary, teacher, writer.keys):
            writer.write(record)
        return len(writer.keys)


def _records(
    part: Part,
    inputs: Sequence[lengths.FittedPrompt],
    generator: "Generator",
    vocabulary: Vocabulary,
    teacher: str,
    done: set[tuple[str, int]],
) -> Iterator[TeacherRecord]:
    """Yields the records that are not done."""
    done = set(done)
    rows = [
        row
        for row, question in enumerate(part.questions)
        if any((question.id, sample) not in done for sample in range(part.num_samples))
    ]
    for portion in generator.answers([inputs[row].tokens for row in rows]):
        for answer in portion:
            record = record_of(part, answer, rows[answer.prompt], vocabulary, teacher)
            if record.key not in done:
                yield record
