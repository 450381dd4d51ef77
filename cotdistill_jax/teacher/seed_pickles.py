"""The pickles that the seed released (`processed_data/*.pkl`), read record by record.

| file | item of the list |
|---|---|
| `codex_questions` | "Question i: ...", question 3324 twice |
| `codex_answers` | "Answer: ... #### 72" |
| `{codex,flan}_predictions` | the texts of a question's samples, "Model output j: ..." |
| `{codex,flan}_per_step_probs` | per sample its steps, a step being (token, probability) pairs: the sampled one, then the top 5 |
| `{codex,flan}_prediction_labels` | per sample 0 or 1 |
| `codex_updated_labels` | the same, 0 also where the seed's alignment failed |
| `codex_dtw_transformed_step_probs` | per sample None or its {piece: probability} per piece |
| `{zero_shot,in_context}_{answer_only,chain_of_thought}` | one formatted example |

Tokens are as the files have them; there, the seed left Python's escapes of anything but a newline ("\\\\t" is a backslash and a t).
"""

import collections
import dataclasses
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cotdistill_jax.files import AnyPath, Path, as_path
from cotdistill_jax.teacher.formatted import FormattedExample
from cotdistill_jax.teacher.records import TeacherRecord
from cotdistill_jax.teacher.restricted_pickle import PickledList
from cotdistill_jax.teacher.seed_text import (
    FLAVOURS,
    Flavour,
    SeedFileError,
    parse_gold,
    parse_question,
    parse_sample,
    spell,
)

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "zero_shot_answer_only": "zero_shot_answer_only",
        "zero_shot_chain_of_thought": "zero_shot_cot",
        "in_context_answer_only": "in_context_answer_only",
        "in_context_chain_of_thought": "in_context_cot",
        "in_context_chain_of_thought_negative": "in_context_cot_negative",
    }
)
"""The seed's names of the four formats and of wrong rationales, which its release need not have, and ours."""

_KINDS = ("predictions", "per_step_probs", "prediction_labels", "updated_labels")
_EXAMPLE_KEYS = ("question", "answer", "answer_gold", "type")


@dataclasses.dataclass
class SeedSamples:
    """The samples of one teacher in a folder of the released pickles; iterate over it for records, question by question.

    Attributes:
        folder: the released `processed_data`.
        flavour: the teacher.
        question_prefix: put before a question's number to make its id.
        files: the pickles that were found, by name; `inputs` of a manifest are made of them.
        questions: (number, text) of every question, without the repeated ones.
        repeated: (position in the file, number) of the questions that were left out because they repeat the one before.
        rejected_by_seed: samples labelled right whose alignment the seed rejected; counted while iterating.
    """

    folder: Path
    flavour: Flavour
    question_prefix: str
    files: dict[str, PickledList]
    questions: list[tuple[int, str]]
    repeated: list[tuple[int, int]]
    rejected_by_seed: int = 0

    @classmethod
    def open(
        cls, folder: AnyPath, flavour: str, question_prefix: str = "gsm8k/train/"
    ) -> "SeedSamples | None":
        """Returns the samples of a teacher, or None if the folder has none of it.

        Args:
            folder: the released `processed_data`.
            flavour: key of `FLAVOURS`.
            question_prefix: put before a question's number to make its id.

        Raises:
            FileNotFoundError: predictions without questions or answers.
            restricted_pickle.PickleFileError: a file that is refused, truncated, broken, or no list.
            SeedFileError: files of different lengths that the repair of repeated questions does not explain.
        """
        folder, teacher = as_path(folder), FLAVOURS[flavour]
        if not (folder / f"{flavour}_predictions.pkl").exists():
            return None
        files = {
            name: PickledList(folder / f"{name}.pkl")
            for name in ("codex_questions", "codex_answers")
        }
        for kind in (*_KINDS, "dtw_transformed_step_probs"):
            path = folder / f"{flavour}_{kind}.pkl"
            if path.exists():
                files[path.stem] = PickledList(path)
        parsed = [
            parse_question(
                _text(item, f"import: {files['codex_questions'].path} record {row}"),
                f"import: {folder} question {row}",
            )
            for row, item in enumerate(files["codex_questions"])
        ]
        repeated = [
            (row, parsed[row][0]) for row in range(1, len(parsed)) if parsed[row] == parsed[row - 1]
        ]
        left_out = {row for row, _ in repeated}
        questions = [question for row, question in enumerate(parsed) if row not in left_out]
        _check_numbers(questions, folder)
        for name, items in files.items():
            if name != "codex_questions" and len(items) != len(questions):
                raise SeedFileError(
                    f"import: {items.path} has {len(items)} records for {len(questions)} questions ({len(repeated)} repeated ones left "
                    "out). Get both files from the same release."
                )
        return cls(folder, teacher, question_prefix, files, questions, repeated)

    def __len__(self) -> int:
        """Returns the number of questions."""
        return len(self.questions)

    def __iter__(self) -> Iterator[list[TeacherRecord]]:
        """Yields the records of each question; labels are the released ones, None where there are none.

        Raises:
            SeedFileError: a record of another shape; the message names file and record.
        """
        self.rejected_by_seed = 0
        for row, (question, answer, texts, steps, labels, updated) in enumerate(
            zip(
                self.questions,
                self.files["codex_answers"],
                *map(self._column, _KINDS),
                strict=True,
            )
        ):
            where = f"import: {self.folder}, record {row}"
            self._check_lengths(where, texts, steps, labels, updated)
            if labels is not None and updated is not None:
                self.rejected_by_seed += sum(map(operator.gt, labels, updated))
            gold = parse_gold(_text(answer, f"{where} of codex_answers.pkl"), where)
            yield [
                self._record(
                    question,
                    gold,
                    sample,
                    text,
                    [] if steps is None else steps[sample],
                    None if labels is None else labels[sample],
                    f"{where}, sample {sample} of {self.flavour.name}_",
                )
                for sample, text in enumerate(texts)
            ]

    def _column(self, kind: str) -> Iterable[Any]:
        name = f"{self.flavour.name}_{kind}"
        return self.files[name] if name in self.files else [None] * len(self.questions)

    def _check_lengths(self, where: str, texts: Any, *others: Any) -> None:
        self._check_texts(where, texts)
        for kind, values in zip(_KINDS[1:], others, strict=True):
            if values is not None:
                self._check_length(where, texts, kind, values)
            if kind != "per_step_probs" and not all(value in (0, 1) for value in values or ()):
                raise SeedFileError(
                    f"{where} of {self.flavour.name}_{kind}.pkl: expected labels 0 and 1, got {values}."
                )

    def _check_texts(self, where: str, texts: Any) -> None:
        if not isinstance(texts, list):
            raise SeedFileError(
                f"{where} of {self.flavour.name}_predictions.pkl: expected a list of texts, got {type(texts).__name__}."
            )

    def _check_length(self, where: str, texts: Any, kind: str, values: Any) -> None:
        if not isinstance(values, list) or len(values) != len(texts):
            size = len(values) if isinstance(values, list) else type(values).__name__
            raise SeedFileError(
                f"{where} of {self.flavour.name}_{kind}.pkl: expected {len(texts)} values, one per sample, got {size}. Get the files "
                "from the same release."
            )

    @property
    def has_aligned(self) -> bool:
        """Whether the folder holds the seed's alignment of these samples."""
        return f"{self.flavour.name}_dtw_transformed_step_probs" in self.files

    def aligned(self) -> Iterator[FormattedExample]:
        """Yields the samples that the seed aligned, each with its question as input; `row` numbers all samples, others included.

        Raises:
            SeedFileError: a record of another shape; the message names file and record.
        """
        kind, number = "dtw_transformed_step_probs", 0
        for row, (question, answer, texts, samples) in enumerate(
            zip(
                self.questions,
                self.files["codex_answers"],
                self._column("predictions"),
                self._column(kind),
                strict=True,
            )
        ):
            where = f"import: {self.folder}, record {row}"
            self._check_texts(where, texts)
            self._check_length(where, texts, kind, samples)
            gold = parse_gold(_text(answer, f"{where} of codex_answers.pkl"), where)
            for sample, (text, pieces) in enumerate(zip(texts, samples, strict=True)):
                number += 1
                if pieces is None:
                    continue
                at = f"{where}, sample {sample} of {self.flavour.name}_"
                said = _text(text, f"{at}predictions.pkl")
                target = parse_sample(said, self.flavour, f"{at}predictions.pkl")
                checked = _pieces(pieces, f"{at}{kind}.pkl")
                yield FormattedExample(number - 1, question[1], target, gold, checked)

    def _record(
        self,
        question: tuple[int, str],
        gold: str,
        sample: int,
        text: Any,
        steps: Any,
        label: int | None,
        where: str,
    ) -> TeacherRecord:
        checked = spell(_steps(steps, f"{where}per_step_probs.pkl"), self.flavour)
        return TeacherRecord(
            question_id=f"{self.question_prefix}{question[0]}",
            sample_id=sample,
            question=question[1],
            gold=gold,
            text=parse_sample(
                _text(text, f"{where}predictions.pkl"), self.flavour, f"{where}predictions.pkl"
            ),
            tokens=tuple(step[0][0] for step in checked),
            top_k=tuple(checked),
            label=None if label is None else bool(label),
            teacher=self.flavour.teacher,
            decode_settings=self.flavour.decode_settings,
        )


def read_formatted(path: AnyPath) -> "SeedFormatted":
    """Returns the formatted examples of a file such as `in_context_chain_of_thought.pkl`.

    Raises:
        SeedFileError: the file's name is none of the four.
        FileNotFoundError, restricted_pickle.PickleFileError: as `PickledList` raises them.
    """
    path = as_path(path)
    if path.stem not in FORMATS:
        raise SeedFileError(f"import: {path}: expected one of {', '.join(FORMATS)} as its name.")
    return SeedFormatted(PickledList(path))


@dataclasses.dataclass(frozen=True)
class SeedFormatted:
    """The formatted examples of one file; iterate over it.

    Attributes:
        items: the file.
    """

    items: PickledList

    @property
    def format(self) -> str:
        """Our name of the format."""
        return FORMATS[self.items.path.stem]

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.items)

    def __iter__(self) -> Iterator[FormattedExample]:
        """Yields the examples.

        Raises:
            SeedFileError: a record of another shape; the message names file and record.
        """
        for row, item in enumerate(self.items):
            yield self._example(row, item)

    def _example(self, row: int, item: Any) -> FormattedExample:
        where = f"import: {self.items.path} record {row}"
        if not isinstance(item, dict):
            raise SeedFileError(f"{where}: expected a dictionary, got {type(item).__name__}.")
        missing = [key for key in _EXAMPLE_KEYS if not isinstance(item.get(key), str)]
        if missing:
            raise SeedFileError(
                f"{where}: expected texts under {missing}, got the keys {sorted(map(str, item))}."
            )
        label = int(not self.format.endswith("_negative"))
        if item["type"] != self.items.path.stem or item.get("answer_label") != label:
            raise SeedFileError(
                f"{where}: expected type {self.items.path.stem!r} and answer_label {label}, got {item['type']!r} and "
                f"{item.get('answer_label')!r}. Check which file this is."
            )
        pieces = _pieces(item.get("per_step_probs", []), f"{where}, per_step_probs")
        if bool(pieces) != ("_cot" in self.format):
            raise SeedFileError(
                f"{where}: {self.format} with {len(pieces)} entries in per_step_probs; chain-of-thought formats have one per piece, "
                "the others none."
            )
        gold = parse_gold(item["answer_gold"], where)
        return FormattedExample(row, item["question"], item["answer"], gold, pieces)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise SeedFileError(f"{where}: expected a text, got {type(value).__name__}.")
    return value


def _pieces(value: Any, where: str) -> tuple[dict[str, float], ...]:
    if not isinstance(value, list) or not all(isinstance(piece, dict) for piece in value):
        raise SeedFileError(
            f"{where}: expected a list of dictionaries, one per piece, got {str(value)[:60]}."
        )
    for number, piece in enumerate(value):
        for text, prob in piece.items():
            if not isinstance(text, str) or not isinstance(prob, int | float):
                raise SeedFileError(
                    f"{where}, piece {number}: expected probabilities by text, got {text!r:.40}: {prob!r:.40}."
                )
    return tuple(value)


def _steps(value: Any, where: str) -> Sequence[tuple[tuple[str, float], ...]]:
    try:
        steps = [
            tuple((token, float(prob)) for token, prob in map(_in_order, step))
            for step in map(_in_order, _in_order(value))
        ]
    except (TypeError, ValueError) as error:
        raise SeedFileError(
            f"{where}: expected steps of (token, probability) pairs, got {str(value)[:60]} ({error})."
        ) from error
    if not all(steps) or not all(isinstance(token, str) for step in steps for token, _ in step):
        raise SeedFileError(
            f"{where}: expected steps of (token, probability) pairs, one at least in each."
        )
    return steps


def _in_order(value: Any) -> list[Any] | tuple[Any, ...]:
    """Returns a list or tuple; what a dictionary, a set or a text would yield has another order or meaning: TypeError."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__} is no list or tuple")
    return value


def _check_numbers(questions: Sequence[tuple[int, str]], folder: Path) -> None:
    counted = collections.Counter(number for number, _ in questions)
    twice = [number for number, times in counted.items() if times > 1]
    if twice:
        raise SeedFileError(
            f"import: {folder}/codex_questions.pkl: the numbers {twice[:5]} stand before more than one question, and the texts are not "
            "equal neighbours, which could be repaired. Renumber them."
        )
