"""TFDS datasets of one's own: any questions, any teacher, any student vocabulary, from what `scripts/align_teacher.py` wrote.

    python scripts/build_corpus.py --corpus=NAME --aligned_dir=aligned --vocab=spiece.model --tfds_data_dir=corpora

`train` holds the right samples. A share of the questions, told by a hash of their text, is held out as `validation`, with the teacher's first
right sample of each as its solution. Questions that a benchmark's test set has too (by text, however they are spelt) are left out of both,
counted by benchmark. The student's vocabulary lies beside the rows, so that the tasks of a corpus need nothing else: `find` lists the corpora
of a folder, and `import tasks` registers them. A corpus that is there is never taken for one of other records or settings.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from cotdistill_jax import benchmarks, files, formats
from cotdistill_jax.alignment import corpus_records
from cotdistill_jax.alignment.corpus_records import CorpusRecord
from cotdistill_jax.benchmarks import Question, normalise_question
from cotdistill_jax.corpus import schema, taught, vocabularies
from cotdistill_jax.files import file_sha256
from cotdistill_jax.teacher import shards

SPLITS = ("train", "validation")
SHIPPED = ("arith", "gsm8k_gold", "gsm8k_teacher", "seed")
HELD_OUT_SHARE = 0.02
_KIND = "own"
_HELD_OUT = "held_out"
_VOCABULARY = "spiece.model"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TESTS = (*benchmarks.MATHS, "arith")


class OwnCorpus(taught.TaughtCorpus):
    """Builder of a dataset that its user names; made by `builder`."""

    SETTINGS = (
        "vocabulary_sha256",
        "extra_ids",
        "aligned_sha256",
        "held_out_share",
        "held_out_ids_sha256",
        "leakage_checked_against",
    )
    """Metadata that say what a corpus was made of."""
    REMEDY = "Look at the labels (align_teacher --label_rule), or hold out fewer questions"

    def __init__(
        self,
        *,
        vocabulary_file: files.AnyPath,
        extra_ids: int,
        held_out_share: float,
        held_out_ids: Collection[str],
        benchmark_dir: files.AnyPath | None,
        **kwargs: Any,
    ) -> None:
        """Makes a builder; see `builder` for the arguments."""
        self._vocabulary_file = vocabulary_file
        self._extra_ids = extra_ids
        self._held_out_share = held_out_share
        self._held_out_ids = frozenset(held_out_ids)
        self._leaks = benchmark_questions(benchmark_dir)
        super().__init__(**kwargs)

    def _vocabulary(self) -> files.AnyPath:
        return self._vocabulary_file

    def _splits(self) -> Sequence[str]:
        return SPLITS if self._held_out_share or self._held_out_ids else SPLITS[:1]

    def _metadata(self) -> dict[str, Any]:
        manifest = files.as_path(self._aligned_dir) / shards.MANIFEST_NAME
        shards.read_manifest(self._aligned_dir, corpus_records.LAYOUT)  # says what is missing
        ids = "\n".join(sorted(self._held_out_ids))
        return {
            "kind": _KIND,
            "vocabulary_sha256": vocabularies.checksum(self._vocabulary_file),
            "extra_ids": self._extra_ids,
            "aligned_sha256": file_sha256(manifest),
            "held_out_share": self._held_out_share,
            "held_out_ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
            "leakage_checked_against": sorted(set(self._leaks.values())),
        }

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the dataset if it is not there, and puts the vocabulary beside it; see TFDS.

        Raises:
            ValueError: One of this name is there, made of something else.
        """
        stored, asked = self.info.metadata, self._metadata()
        other = [name for name in self.SETTINGS if stored.get(name) != asked[name]]
        if other:
            said = "; ".join(f"{name} {stored.get(name)}, now {asked[name]}" for name in other)
            raise ValueError(
                f"corpus: {self.data_path} is there, made of something else: {said}. Give this one another name, or delete that folder"
            )
        super().download_and_prepare(**kwargs)
        copy = files.as_path(str(self.data_path)).parent / _VOCABULARY
        files.write_atomically(copy, files.as_path(self._vocabulary_file).read_bytes())

    @functools.cached_property
    def _held_out_texts(self) -> frozenset[str]:
        """Texts of the questions whose ids are held out: another id must not bring them into training."""
        if not self._held_out_ids:
            return frozenset()
        texts = {
            record.question_id: normalise_question(record.question)
            for record in self._records()
            if record.question_id in self._held_out_ids
        }
        unknown = sorted(self._held_out_ids - texts.keys())
        if unknown:
            raise ValueError(
                f"corpus: {len(unknown)} of {len(self._held_out_ids)} ids to hold out are no question's of {self._aligned_dir}, such as "
                f"{unknown[0]!r}. Ids are those of the teacher's records, one a line"
            )
        return frozenset(texts.values())

    def _reason(self) -> taught.Reason:
        def reason(record: CorpusRecord) -> str | None:
            text = normalise_question(record.question)
            leak = self._leaks.get(text)
            if leak is not None:
                return f"in_test_set_of_{leak}"
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            is_held_out = number < self._held_out_share * 2**64 or text in self._held_out_texts
            return _HELD_OUT if is_held_out else None

        return reason

    def _held_out(self, split: str, counts: schema.Counts) -> Iterator[dict[str, Any]]:
        processor = files.open_vocabulary(self._vocabulary_file, "corpus")
        reason = self._reason()
        asked: set[str] = set()
        seen: set[str] = set()
        for record in self._records():
            if record.question_id in seen or reason(record) != _HELD_OUT:
                continue
            asked.add(record.question_id)
            if record.label:
                seen.add(record.question_id)
                row = schema.teacher_row(record, first_of_question=True) | {"held_out": True}
                yield row | schema.without_teacher(processor.encode(row["text"]))
        if asked - seen:
            counts.dropped["no_right_sample"] = len(asked - seen)
        if not seen:
            raise ValueError(
                f"corpus: none of the questions of {self._aligned_dir} with a right sample is held out. Raise --held_out_share, name "
                "--held_out_ids, or give --held_out_share=0 for a corpus without validation"
            )


def builder(
    name: str,
    aligned_dir: files.AnyPath,
    vocabulary_file: files.AnyPath,
    *,
    extra_ids: int | None = None,
    held_out_share: float = HELD_OUT_SHARE,
    held_out_ids: Collection[str] = (),
    benchmark_dir: files.AnyPath | None = None,
    allow_one_hot_share: float | None = None,
    **kwargs: Any,
) -> OwnCorpus:
    """Returns the builder of a corpus of one's own.

    Args:
        name: Its name, and first part of its tasks' names: lower case letters, digits and `_`, without `_seed_`, as in `a_seed_3b`, whose
            tasks could not be told from those of a corpus `a`.
        aligned_dir: What `scripts/align_teacher.py` wrote.
        vocabulary_file: The SentencePiece model that it was aligned to.
        extra_ids: Sentinel ids above its pieces; None: 100 for T5's 32,000 pieces, else 0.
        held_out_share: Share of the questions in `validation`, in [0, 1).
        held_out_ids: Ids of further ones.
        benchmark_dir: Benchmark folder for the leakage guard; None reads COTDISTILL_DATA_DIR, and without it only `arith` is compared.
        allow_one_hot_share: See `taught.check`.
        **kwargs: Those of every TFDS builder, such as `data_dir`.

    Raises:
        ValueError: A name that can't be one, or a share that is none.
    """
    if not _NAME.fullmatch(name) or name in SHIPPED or "_seed_" in name:
        raise ValueError(
            f"corpus: {name!r} can't be the name of a corpus of your own: lower case letters, digits and _, without _seed_, and none of "
            f"{', '.join(SHIPPED)}"
        )
    if not 0 <= held_out_share < 1:
        raise ValueError(f"corpus: held_out_share {held_out_share} is not in [0, 1)")
    if extra_ids is not None and extra_ids < 0:
        raise ValueError(f"corpus: extra_ids {extra_ids} is below 0")
    if extra_ids is None:
        pieces = len(files.open_vocabulary(vocabulary_file, "corpus"))
        extra_ids = 100 if pieces == 32_000 else 0
    with tfds.core.registered.skip_registration():
        named: type[OwnCorpus] = type("Named", (OwnCorpus,), {"name": name, "__module__": __name__})
    return named(
        aligned_dir=aligned_dir,
        vocabulary_file=vocabulary_file,
        extra_ids=extra_ids,
        held_out_share=held_out_share,
        held_out_ids=held_out_ids,
        benchmark_dir=benchmark_dir,
        allow_one_hot_share=allow_one_hot_share,
        **kwargs,
    )


@dataclasses.dataclass(frozen=True)
class Found:
    """A corpus of one's own in a TFDS data directory.

    Attributes:
        name: Its name.
        folder: The dataset's folder.
        vocabulary_file: The student's SentencePiece model.
        extra_ids: Sentinel ids above its pieces.
        splits: Its splits.
    """

    name: str
    folder: files.Path
    vocabulary_file: files.Path
    extra_ids: int
    splits: tuple[str, ...]

    def pool(self) -> list[Question]:
        """Returns the training questions with the first right sample of each as solution, for demonstrations."""
        built = tfds.builder_from_directory(self.folder)
        questions = []
        for row in tfds.as_numpy(built.as_dataset(split="train")):
            if row["first_of_question"]:
                text, gold = row["text"].decode(), row["answer"].decode()
                sentence = formats.cut_answer_sentence(text) or ""
                rationale = text.removesuffix(sentence).strip()
                id_ = row["question_id"].decode()
                questions.append(
                    Question(id_, self.name, row["question"].decode(), gold, rationale)
                )
        return sorted(questions, key=lambda question: question.id)


def find(data_dir: files.AnyPath | None) -> list[Found]:
    """Returns the corpora of one's own in a TFDS data directory, by name; none where there is no such folder."""
    found = []
    folders = files.entries(files.as_path(data_dir), f"*/{schema.VERSION}") if data_dir else []
    for folder in folders:
        description = folder / "metadata.json"
        content = files.read_json(description, "corpus") if description.exists() else {}
        vocabulary = folder.parent / _VOCABULARY
        if content.get("kind") == _KIND and vocabulary.exists():
            splits = tuple(split for split in SPLITS if split in content["counts"])
            found.append(
                Found(folder.parent.name, folder, vocabulary, content["extra_ids"], splits)
            )
    return found


def benchmark_questions(data_dir: files.AnyPath | None) -> Mapping[str, str]:
    """Returns, by its normalised text, the benchmark of every test question that is there to compare with."""
    there: dict[str, str] = {}
    for name in _TESTS:
        try:
            questions = benchmarks.load(name, "test", data_dir)
        except FileNotFoundError:
            continue
        for question in questions:
            there.setdefault(normalise_question(question.question), name)
    return there
