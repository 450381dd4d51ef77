"""Examples of a task as the model gets them: prompt and target, piece by piece, with the teacher's candidates."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

Provider = seqio.Task | seqio.Mixture


@dataclasses.dataclass(frozen=True)
class TargetPiece:
    """One piece of a target.

    Attributes:
        id: token id.
        piece: its name in the vocabulary.
        candidates: (piece, probability) of the teacher, in the stored order; empty where the row has no mass.
    """

    id: int
    piece: str
    candidates: tuple[tuple[str, float], ...]

    @property
    def kept(self) -> float:
        """Probability that all candidates hold together; 0 where there is no teacher."""
        return sum(prob for _, prob in self.candidates)

    @property
    def prob(self) -> float | None:
        """Probability of the piece itself; None where the row has no mass."""
        return dict(self.candidates).get(self.piece, 0.0) if self.candidates else None


@dataclasses.dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        task: name of its task.
        question_id: id of its question, where the task keeps it.
        prompt: input text.
        target: target text.
        inputs: (id, piece) of the input, EOS included.
        targets: pieces of the target, EOS included.
    """

    task: str
    question_id: str
    prompt: str
    target: str
    inputs: tuple[tuple[int, str], ...]
    targets: tuple[TargetPiece, ...]


def read_examples(name: str, split: str, n: int, seed: int = 0) -> list[Example]:
    """Returns n examples of a task or mixture, dealt to its tasks in turn.

    Args:
        name: registered task or mixture.
        split: split to read.
        n: how many in all.
        seed: seed of random preprocessing (drawing demonstrations).

    Raises:
        ValueError: unknown name.
    """
    tasks = sorted(seqio.get_subtasks(seqio.get_mixture_or_task(name)), key=lambda t: t.name)
    streams = [_stream(task, split, -(-n // len(tasks)), seed) for task in tasks]
    dealt = itertools.chain.from_iterable(itertools.zip_longest(*streams))
    return [example for example in dealt if example is not None][:n]


def _stream(task: seqio.Task, split: str, n: int, seed: int) -> Iterator[Example]:
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=True, seed=seed)
    for raw in dataset.take(n).as_numpy_iterator():
        yield _example(task, raw)


def _example(task: seqio.Task, raw: Mapping[str, Any]) -> Example:
    vocabularies = {f: task.output_features[f].vocabulary for f in ("inputs", "targets")}
    rows = (
        zip(raw["teacher_ids"], raw["teacher_probs"], strict=True) if "teacher_ids" in raw else ()
    )
    candidates = [_candidates(vocabularies["targets"], ids, probs) for ids, probs in rows]
    targets = [
        TargetPiece(int(i), piece_name(vocabularies["targets"], int(i)), row)
        for i, row in zip(raw["targets"], candidates or [()] * len(raw["targets"]), strict=True)
    ]
    return Example(
        task=task.name,
        question_id=_text(raw.get("question_id", b"")),
        prompt=_text(raw["inputs_pretokenized"]),
        target=_text(raw["targets_pretokenized"]),
        inputs=tuple((int(i), piece_name(vocabularies["inputs"], int(i))) for i in raw["inputs"]),
        targets=tuple(targets),
    )


def _candidates(
    vocabulary: seqio.SentencePieceVocabulary, ids: Sequence[int], probs: np.ndarray
) -> tuple[tuple[str, float], ...]:
    pairs = zip(ids, probs.tolist(), strict=True)
    return tuple((piece_name(vocabulary, int(i)), prob) for i, prob in pairs if prob > 0.0)


def piece_name(vocabulary: seqio.SentencePieceVocabulary, piece: int) -> str:
    """Returns the name of a token id: "▁The", "</s>", or "<id 32050>" above the pieces."""
    processor = vocabulary.tokenizer
    if piece >= processor.get_piece_size():
        return f"<id {piece}>"
    name: str = processor.id_to_piece(piece)
    return name


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="replace")
