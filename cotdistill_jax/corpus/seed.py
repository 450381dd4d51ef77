"""TFDS dataset `seed`: the paper's own examples, from what `scripts/import_seed_data.py` wrote; one config per format.

    COTDISTILL_DATA_DIR=DIR COTDISTILL_FORMATTED_DIR=DIR/formatted tfds build cotdistill_jax/corpus/seed.py

`train` holds the released examples with the released candidates, turned into ids. Left out, and counted in the metadata, are examples that
show a development question, as question or as demonstration, and those that show their own question as a demonstration: the paper trained
on both. `validation` and `test` hold gold solutions, with demonstrations drawn by `formats.draw_demonstrations`. A row has the finished input
text in the field `input`.

The config `in_context_cot_negative` holds wrong rationales for contrastive training: those of `in_context_chain_of_thought_negative.pkl`
where the release has it, else the samples of `codex_records` that are labelled wrong, with demonstrations drawn as for gold solutions.
"""

import collections
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import sentencepiece
import tensorflow_datasets as tfds

from cotdistill_jax import benchmarks, files, formats, teacher
from cotdistill_jax.alignment.rows import quantise
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.corpus import schema, vocabularies
from cotdistill_jax.teacher import formatted, shards

RECORDS = "codex_records"  # beside the folder of formatted examples
FORMATTED_DIR_VARIABLE = "COTDISTILL_FORMATTED_DIR"
# The sampled token may lie outside the five most likely ones.
TOP_K = 6
_GOLD_SPLITS = {"validation": "dev", "test": "test"}
_DEMONSTRATION_SEED = 0
_UNUSED_FIELDS = ("answer_sentence", "first_of_question")


class Seed(tfds.core.GeneratorBasedBuilder):
    """Builder of the dataset `seed`."""

    VERSION = tfds.core.Version(schema.VERSION)
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"Examples in the format {name}.")
        for name in (*formats.FORMATS, schema.NEGATIVE_FORMAT)
    ]

    def __init__(
        self,
        *,
        formatted_dir: files.AnyPath | None = None,
        benchmark_dir: files.AnyPath | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes a builder.

        Args:
            formatted_dir: Folder with a folder of formatted examples per format; None reads COTDISTILL_FORMATTED_DIR.
            benchmark_dir: Folder with the benchmark files; None reads the environment variable COTDISTILL_DATA_DIR.
            **kwargs: Those of every TFDS builder, such as `config` and `data_dir`.
        """
        self._formatted_dir = formatted_dir or os.environ.get(FORMATTED_DIR_VARIABLE)
        self._benchmark_dir = benchmark_dir
        super().__init__(**kwargs)

    @property
    def _form(self) -> formats.Format:
        return formats.get_format(self.builder_config.name.removesuffix("_negative"))

    @property
    def _is_negative(self) -> bool:
        return self.builder_config.name == schema.NEGATIVE_FORMAT

    @property
    def _has_teacher(self) -> bool:
        return self._form.chain_of_thought and not self._is_negative

    def _info(self) -> tfds.core.DatasetInfo:
        fields = dict(schema.features(TOP_K if self._has_teacher else None))
        for name in _UNUSED_FIELDS:
            del fields[name]
        return tfds.core.DatasetInfo(
            builder=self,
            description="The formatted examples that the paper released.",
            features=tfds.features.FeaturesDict({**fields, "input": tfds.features.Text()}),
            metadata=schema.metadata(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[schema.Example]]:
        if self._formatted_dir is None:
            raise FileNotFoundError(
                f"corpus: seed needs formatted examples, but no formatted_dir was given and {FORMATTED_DIR_VARIABLE} is not set. Make "
                "them with `python scripts/import_seed_data.py --processed_data=DIR --output_dir=OUT` and pass OUT/formatted."
            )
        self._folder = files.as_path(self._formatted_dir) / self.builder_config.name
        vocabulary_file = vocabularies.t5_vocabulary(self._benchmark_dir)
        self._processor = files.open_vocabulary(vocabulary_file, "corpus")
        self.info.metadata.update(
            vocabulary_sha256=vocabularies.checksum(vocabulary_file),
            alignment_method="seed",
            top_k=TOP_K,
        )
        self._counts: dict[str, schema.Counts] = {}
        if self._is_negative and not self._folder.exists():
            self._folder = files.as_path(self._formatted_dir).parent / RECORDS
            if not has_negative(self._formatted_dir):
                raise FileNotFoundError(
                    f"corpus: neither {self._formatted_dir}/{schema.NEGATIVE_FORMAT} nor {self._folder} is there; wrong rationales "
                    "come from one of them. Import the release's codex_predictions.pkl, too."
                )
            return {"train": self._generate_examples("train")}
        config = shards.read_manifest(self._folder, formatted.LAYOUT)["config"]
        if config["format"] != self.builder_config.name:
            raise ValueError(
                f"corpus: {self._folder} holds examples in the format {config['format']}, expected {self.builder_config.name}."
            )
        splits = ["train"] if self._is_negative else schema.SPLITS
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: str) -> Iterator[schema.Example]:
        counts = self._counts[split] = schema.Counts()
        if split != "train":
            rows = self._gold(split)
        elif self._folder.name == RECORDS:
            rows = self._wrong(counts)
        else:
            rows = self._released(counts)
        for row in rows:
            counts.taken += 1
            yield schema.key(row), row
        schema.write_counts(self.info, self._counts)

    def _gold(self, split: str) -> Iterator[dict[str, Any]]:
        form, render = self._form, self._render_inputs()
        for question in benchmarks.load("gsm8k", _GOLD_SPLITS[split], self._benchmark_dir):
            target = form.render_target(question.rationale, question.gold)
            row = _row(question, 0, render(question), target, held_out=True)
            if form.chain_of_thought:
                row |= schema.without_teacher(self._processor.encode(target), TOP_K)
            yield row

    def _render_inputs(self) -> Callable[[Question], str]:
        """Returns a function that renders a question's input; in context with demonstrations of its own."""
        form = self._form
        pool = {q.id: q for q in benchmarks.load("gsm8k", "train", self._benchmark_dir)}

        def render(question: Question) -> str:
            shown = (
                formats.draw_demonstrations(list(pool), question.id, _DEMONSTRATION_SEED)
                if form.in_context
                else ()
            )
            demonstrations = [
                form.render_demonstration(pool[i].question, pool[i].rationale, pool[i].gold)
                for i in shown
            ]
            return form.render_input(question.question, demonstrations)

        return render

    def _wrong(self, counts: schema.Counts) -> Iterator[dict[str, Any]]:
        """Yields the samples of the imported records that are labelled wrong."""
        questions = {q.id: q for q in benchmarks.load("gsm8k", "train", self._benchmark_dir)}
        render = functools.cache(self._render_inputs())
        for record in teacher.read_records(self._folder):
            if record.question_id not in questions:
                counts.dropped["not_a_training_question"] += 1
            elif record.label is None:
                counts.dropped["not_labelled"] += 1
            elif record.label:
                counts.dropped["right_answer"] += 1
            elif not record.text.strip():
                counts.dropped["empty"] += 1
            else:
                question = questions[record.question_id]
                text = record.text.strip()
                yield _row(question, record.sample_id, render(question), text, held_out=False)

    def _released(self, counts: schema.Counts) -> Iterator[dict[str, Any]]:
        form = self._form
        shown = ShownQuestions(form, benchmarks.load("gsm8k", "train_and_dev", self._benchmark_dir))
        held_out = {q.id for q in benchmarks.load("gsm8k", "dev", self._benchmark_dir)}
        samples: collections.Counter[str] = collections.Counter()
        for example in formatted.read_examples(self._folder):
            question, demonstrations = shown.find(example.input)
            if question is None:
                counts.dropped["not_a_training_question"] += 1
                continue
            sample_id = samples[question.id]
            samples[question.id] += 1
            reason = _reason_to_drop(question.id, {q.id for q in demonstrations}, held_out)
            if reason:
                counts.dropped[reason] += 1
                continue
            rows: Mapping[str, np.ndarray] = {}
            if self._has_teacher:
                pieces = self._processor.encode(example.target)
                ids, probs = candidate_rows(example, pieces, self._processor)
                rows = schema.teacher_fields(np.array(pieces, np.int32), ids, probs)
            row = _row(question, sample_id, example.input, example.target, held_out=False)
            yield {**row, **rows}


def has_negative(formatted_dir: files.AnyPath) -> bool:
    """Returns whether wrong rationales are there, formatted or as records."""
    folder = files.as_path(formatted_dir)
    return (folder / schema.NEGATIVE_FORMAT).exists() or (folder.parent / RECORDS).exists()


class ShownQuestions:
    """Finds out which benchmark questions a finished input shows."""

    def __init__(self, form: formats.Format, questions: Sequence[Question]) -> None:
        """Prepares the look-up.

        Args:
            form: format of the inputs.
            questions: all that may occur.
        """
        self._form = form
        self._by_text = {q.question.strip(): q for q in questions}
        # The seed cut its questions at ": " and so lost every later one.
        self._by_cut_text = {q.question.replace(": ", "").strip(): q for q in questions}

    def find(self, text: str) -> tuple[Question | None, list[Question]]:
        """Returns the question that an input asks, None if it is not known, and the known ones among its demonstrations."""
        form = self._form
        *shown, query = (
            ("\n\n" + text).split(f"\n\n{form.query_prefix}")[1:]
            if form.in_context
            else [text.removeprefix(form.query_prefix)]
        )
        asked = query.removesuffix(form.query_suffix).strip()
        demonstrations = (part.partition(form.query_suffix)[0].strip() for part in shown)
        found = (self._by_text.get(part) for part in demonstrations)
        return self._by_text.get(asked) or self._by_cut_text.get(asked), [q for q in found if q]


def candidate_rows(
    example: formatted.FormattedExample,
    pieces: Sequence[int],
    processor: sentencepiece.SentencePieceProcessor,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the candidates of an example as ids and steps of 1e-4, uint16 [L, K], the piece itself first.

    Args:
        example: with candidates for every piece.
        pieces: ids of its target in the student's vocabulary, without EOS.
        processor: the student's vocabulary.

    Raises:
        ValueError: the candidates do not fit the pieces, or one is not in the vocabulary: it was aligned to another vocabulary.

    Example: pieces [▁If, ▁so], candidates [{"▁If": 1.0}, {"▁then": 0.25, "▁so": 0.5}] -> steps [[10000, 0, ...], [5000, 2500, ...]].
    """
    ids = np.full((len(pieces), TOP_K), -1, np.int32)
    probs = np.zeros((len(pieces), TOP_K))
    if len(pieces) != len(example.pieces):
        raise ValueError(
            f"corpus: seed example {example.row} has candidates for {len(example.pieces)} pieces, its target has {len(pieces)} in this "
            "vocabulary. Pass the vocabulary that it was aligned to."
        )
    for place, (own, candidates) in enumerate(zip(pieces, example.pieces, strict=True)):
        named = {processor.piece_to_id(name): (name, prob) for name, prob in candidates.items()}
        unknown = named.get(processor.unk_id())
        if own not in named or (
            unknown and unknown[0] != processor.id_to_piece(processor.unk_id())
        ):
            raise ValueError(
                f"corpus: seed example {example.row}, piece {place} ({processor.id_to_piece(own)!r}) has the candidates "
                f"{list(candidates)}; expected pieces of the vocabulary, that one among them. Pass the vocabulary that it was aligned to."
            )
        others = sorted(
            (piece for piece in named if piece != own), key=lambda piece: -named[piece][1]
        )
        for column, piece in enumerate([own, *others][:TOP_K]):
            ids[place, column], probs[place, column] = piece, named[piece][1]
    return quantise(ids, probs)


def _row(
    question: Question, sample_id: int, input_text: str, target: str, held_out: bool
) -> dict[str, Any]:
    return {
        "question_id": question.id,
        "sample_id": sample_id,
        "question": question.question,
        "answer": question.gold,
        "input": input_text,
        "text": target,
        "held_out": held_out,
    }


def _reason_to_drop(question: str, shown: set[str], held_out: set[str]) -> str | None:
    """Returns why an example is left out, from the ids of its question and its demonstrations, or None if it is not."""
    if ({question} | shown) & held_out:
        return "shows_a_development_question"
    return "shows_its_own_question" if question in shown else None
