"""TFDS dataset `arith`: the embedded problems as a synthetic teacher solved them, aligned to the shipped vocabulary.

    tfds build cotdistill_jax/corpus/arith.py        or        python scripts/build_corpus.py --corpus=arith

`train` holds the correct samples of `teacher.synthetic`, one per question and a second one for every twentieth;
`validation` and `test` hold gold solutions. Wrong and rejected samples are counted in the metadata.

With `several_derivations` the teacher reaches an answer in several ways, as a real one does that is asked many times: by another
order of the calculations, where the problem has one, and with operands swapped. Only then do a student's samples differ in more
than their slips, which is what a vote among them lives on (Wang et al. 2023, arXiv 2203.11171).
"""

import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

import sentencepiece
import tensorflow_datasets as tfds

from cotdistill_jax import alignment, answers, benchmarks, files
from cotdistill_jax.alignment import corpus_records
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.benchmarks import arith as problems
from cotdistill_jax.corpus import schema, taught, vocabularies
from cotdistill_jax.teacher import synthetic

ALIGNMENT_METHOD = "spans"
SECOND_SAMPLE_EVERY = 20
_QUESTIONS_PER_BATCH = 512


class Arith(tfds.core.GeneratorBasedBuilder):
    """Builder of the dataset `arith`."""

    VERSION = tfds.core.Version(schema.VERSION)

    def __init__(
        self,
        *,
        num_questions: int | None = None,
        seed: int = 0,
        several_derivations: bool = False,
        aligned_dir: files.AnyPath | None = None,
        allow_one_hot_share: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes a builder.

        Args:
            num_questions: Questions per split, the first ones; None for all.
            seed: Seed of the synthetic teacher.
            several_derivations: Whether the teacher reaches an answer in several ways.
            aligned_dir: What `scripts/align_teacher.py` wrote of a teacher's answers to training problems, such as
                `scripts/serve_synthetic_teacher.py` gives; None: they are made here.
            allow_one_hot_share: With `aligned_dir`, see `taught.check`.
            **kwargs: Those of every TFDS builder, such as `data_dir`.

        Raises:
            ValueError: If the corpus is there already, with the samples of the other kind of teacher.
        """
        self._num_questions = num_questions
        self._several_derivations = several_derivations
        self._teacher_name = synthetic.TEACHER_NAME
        if several_derivations:
            self._teacher_name += ", several derivations"
        self._aligned_dir = aligned_dir
        self._allow_one_hot_share = allow_one_hot_share
        if aligned_dir is not None:
            self._teacher_name += ", decoded"
        swap_rate = 0.5 if several_derivations else 0.0
        self._teacher = synthetic.SyntheticTeacher(seed, swap_rate=swap_rate)
        super().__init__(**kwargs)
        got = self.info.metadata["teacher"]  # that of the corpus which is there already, if any
        if got != self._teacher_name:
            raise ValueError(
                f"corpus: {self.data_path} has the samples of the teacher {got!r}, expected {self._teacher_name!r}. Delete that folder "
                "or build into another --tfds_data_dir."
            )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Generated multi-step word problems with the samples of a synthetic teacher.",
            features=schema.features(schema.TOP_K),
            metadata=schema.metadata(
                vocabulary_sha256=vocabularies.checksum(vocabularies.arith_vocabulary()),
                alignment_method=ALIGNMENT_METHOD,
                top_k=schema.TOP_K,
                teacher=self._teacher_name,
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[schema.Example]]:
        if self._aligned_dir is not None:
            config = taught.check(self._aligned_dir, self._allow_one_hot_share)
            self.info.metadata["alignment_method"] = config["method"]
        self._counts: dict[str, schema.Counts] = {}
        return {split: self._generate_examples(split) for split in schema.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[schema.Example]:
        questions = benchmarks.load("arith", split)[: self._num_questions]
        if self._several_derivations and split == "train":
            questions = _in_other_ways(questions)
        counts = self._counts[split] = schema.Counts()
        processor = sentencepiece.SentencePieceProcessor(
            model_file=str(vocabularies.arith_vocabulary())
        )
        if split != "train":
            rows = _gold(questions, processor)
        elif self._aligned_dir is None:
            rows = _taught(questions, self._teacher, processor, counts)
        else:
            rows = self._decoded({question.id for question in questions}, counts)
        for row in rows:
            counts.taken += 1
            yield schema.key(row), row
        schema.write_counts(self.info, self._counts)

    def _decoded(self, allowed: set[str], counts: schema.Counts) -> Iterator[dict[str, Any]]:
        """Yields the rows of the aligned records' right samples, and counts the others."""
        assert self._aligned_dir is not None
        records = corpus_records.read_corpus(self._aligned_dir, vocabularies.arith_vocabulary())
        yield from taught.rows(
            records,
            lambda record: None if record.question_id in allowed else "not_a_training_question",
            counts,
            "Ask for `--benchmark=arith --split=train`",
        )


def _in_other_ways(questions: Sequence[Question]) -> list[Question]:
    """Returns the training questions, half of those that have another rationale with that one."""
    others = problems.other_rationales("train", len(questions))
    rng = random.Random("arith/derivations")
    return [
        dataclasses.replace(question, rationale=other)
        if other is not None and rng.random() < 0.5
        else question
        for question, other in zip(questions, others, strict=True)
    ]


def _gold(
    questions: Sequence[Question], processor: sentencepiece.SentencePieceProcessor
) -> Iterator[dict[str, Any]]:
    """Yields the rows of held-out questions."""
    for question in questions:
        row = schema.gold_row(question, held_out=True)
        yield row | schema.without_teacher(processor.encode(row["text"]))


def _taught(
    questions: Sequence[Question],
    teacher: synthetic.SyntheticTeacher,
    processor: sentencepiece.SentencePieceProcessor,
    counts: schema.Counts,
) -> Iterator[dict[str, Any]]:
    """Yields the rows of the teacher's correct samples, and counts the others."""
    aligner = alignment.Aligner(processor, ALIGNMENT_METHOD, schema.TOP_K)
    previous = None
    for start in range(0, len(questions), _QUESTIONS_PER_BATCH):
        batch = range(start, min(start + _QUESTIONS_PER_BATCH, len(questions)))
        records = [
            teacher.answer(q.id, q.question, q.rationale, q.gold, sample_id)
            for index in batch
            for q in [questions[index]]
            for sample_id in range(2 if index % SECOND_SAMPLE_EVERY == 0 else 1)
        ]
        correct = [r for r in records if answers.is_correct(r.text, r.gold)]
        counts.dropped["wrong_answer"] += len(records) - len(correct)
        aligned = aligner.align_samples(
            [r.tokens for r in correct], [r.top_k for r in correct], [r.text for r in correct]
        )
        for record, sample in zip(correct, aligned, strict=True):
            if sample.rejected is not None:
                counts.dropped[f"alignment: {sample.rejected}"] += 1
                continue
            # Samples of a question follow one another.
            first = record.question_id != previous
            previous = record.question_id
            yield schema.teacher_row(record, first) | schema.teacher_fields(
                sample.piece_ids, sample.teacher_ids, sample.teacher_probs
            )
