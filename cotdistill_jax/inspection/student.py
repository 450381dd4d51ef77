"""How probable our student finds a given text, token by token, as teacher records: drawn and aligned like a teacher's.

The text is fed to the decoder as it is (teacher forcing), in the pieces that SentencePiece makes of it. The model may have written
the same text in other pieces; for canonical pieces, which a trained model nearly always writes, these are its own probabilities.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece

from cotdistill_jax import checkpoints, files, network
from cotdistill_jax.alignment.pieces import SPACE
from cotdistill_jax.teacher import TeacherRecord

TOP_K = 5
EOS = "</s>"
# Lengths are rounded up to multiples of these, so that few shapes are compiled.
_INPUT_STEP, _TARGET_STEP = 64, 32


@dataclasses.dataclass(frozen=True)
class Asked:
    """A text that is to be scored as the answer to a prompt.

    Attributes:
        question_id: as in `benchmarks.Question.id`.
        sample_id: number of the text among those of its question.
        question: the question without its prompt.
        gold: gold answer.
        prompt: the whole input text.
        text: the answer that is scored.
    """

    question_id: str
    sample_id: int
    question: str
    gold: str
    prompt: str
    text: str


def score_texts(
    model: checkpoints.Model, asked: Sequence[Asked], batch_size: int = 32
) -> Iterator[TeacherRecord]:
    """Yields, in order, a record per text: its pieces (a blank for "▁"), the model's top 5 at each, and EOS as "</s>".

    Args:
        model: from `checkpoints.load_model`.
        asked: prompts with their texts.
        batch_size: texts scored together.
    """
    processor = files.open_vocabulary(model.vocabulary_file, "inspection")
    params = jax.device_put(model.params)
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        inputs = _pad([_encode(processor, a.prompt) for a in batch], batch_size, _INPUT_STEP)
        targets = _pad([_encode(processor, a.text) for a in batch], batch_size, _TARGET_STEP)
        scored = _score(model.config, params, inputs, targets, min(TOP_K, model.config.vocab_size))
        rows = [np.asarray(part) for part in scored]
        for number, one in enumerate(batch):
            yield _record(one, processor, model, *(part[number] for part in rows))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _score(
    config: network.T5Config, params: Any, inputs: jax.Array, targets: jax.Array, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns ids [B, L, K] and probabilities [B, L, K] of the top k, and the probability [B, L] of each target."""
    shifted = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    logits = network.Transformer(config).apply(
        {"params": params}, inputs, shifted, targets, enable_dropout=False
    )
    probs = jax.nn.softmax(jnp.asarray(logits), axis=-1)
    top, ids = jax.lax.top_k(probs, k)
    own = jnp.take_along_axis(probs, targets[..., None], axis=-1)[..., 0]
    return ids, top, own


def _record(
    asked: Asked,
    processor: sentencepiece.SentencePieceProcessor,
    model: checkpoints.Model,
    ids: np.ndarray,
    probs: np.ndarray,
    own: np.ndarray,
) -> TeacherRecord:
    surfaces = [piece.replace(SPACE, " ") for piece in processor.encode(asked.text, out_type=str)]
    tokens = (*surfaces, EOS)
    targets = _encode(processor, asked.text)
    rows = []
    for place, (token, target) in enumerate(zip(tokens, targets, strict=True)):
        row = [(token, round(float(own[place]), 6))]
        row += [
            (_name(processor, int(i)), round(float(p), 6))
            for i, p in zip(ids[place], probs[place], strict=True)
            if i != target
        ]
        rows.append(tuple(row[:TOP_K] if target in ids[place] else row))
    return TeacherRecord(
        question_id=asked.question_id,
        sample_id=asked.sample_id,
        question=asked.question,
        gold=asked.gold,
        text=asked.text,
        tokens=tokens,
        top_k=tuple(rows),
        label=None,
        teacher=str(model.path),
        decode_settings={"scored": "teacher forcing", "step": model.step},
    )


def _encode(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    ids: list[int] = processor.encode(text)
    return [*ids, processor.eos_id()]


def _name(processor: sentencepiece.SentencePieceProcessor, piece: int) -> str:
    if piece >= processor.get_piece_size():
        return f"<id {piece}>"
    name: str = processor.id_to_piece(piece)
    return name.replace(SPACE, " ")


def _pad(rows: Sequence[Sequence[int]], num_rows: int, step: int) -> np.ndarray:
    """Returns int32 [num_rows, length]: the rows, then empty ones, which keep the shape; the length is a multiple of `step`."""
    longest = max(len(row) for row in rows)
    padded = np.zeros((num_rows, -(-longest // step) * step), np.int32)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
