"""The student vocabularies: the small one that ships for `arith`, and T5's from the benchmark folder.

Both are SentencePiece models with T5's conventions: pad 0, EOS 1, `<unk>` 2, no BOS.
"""

import io
import pathlib
from collections.abc import Iterable, Iterator

import sentencepiece

from cotdistill_jax import files, formats
from cotdistill_jax.benchmarks import Question, reading
from cotdistill_jax.files import file_sha256

ARITH_VOCABULARY_SIZE = 512
_ARITH_MODEL = pathlib.Path(__file__).with_name("arith.spiece.model")
_SPACED_DIGITS = [f"▁{digit}" for digit in range(10)]
_PHRASES = ["▁Let's▁think▁step▁by▁step", "▁The▁answer▁is", "▁How▁many"]


def arith_vocabulary() -> files.Path:
    """Returns the path of the SentencePiece model of the `arith` student, shipped with this package."""
    return _ARITH_MODEL


def t5_vocabulary(data_dir: files.AnyPath | None = None) -> files.Path:
    """Returns the path of T5's SentencePiece model, `t5/spiece.model` in the benchmark folder.

    Args:
        data_dir: Folder with the benchmark files; None reads the environment variable COTDISTILL_DATA_DIR.

    Raises:
        FileNotFoundError: If the file is missing; the message names it and the command that fetches it.
    """
    return reading.data_path("t5/spiece.model", data_dir)


def checksum(path: files.AnyPath) -> str:
    """Returns the SHA-256 of a vocabulary file, hexadecimal; corpora carry it, readers compare it."""
    return file_sha256(path)


def train_arith_vocabulary(questions: Iterable[Question]) -> bytes:
    """Returns a SentencePiece model (byte-pair encoding) for the questions, in its file format.

    The same questions give the same pieces. Every digit is a piece of its own, with the blank in front where
    there is one (" 48" is "▁4", "8"), so that numbers differ digit by digit. Newlines are blanks to it, as
    they are to T5's vocabulary. The fixed phrases of the formats are one piece each, which makes sequences shorter.

    Args:
        questions: Questions with rationales; their inputs and targets in all four formats are the text.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_texts(questions),
        model_writer=model,
        model_type="bpe",
        vocab_size=ARITH_VOCABULARY_SIZE,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        split_digits=True,
        character_coverage=1.0,
        user_defined_symbols=_PHRASES + _SPACED_DIGITS,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _texts(questions: Iterable[Question]) -> Iterator[str]:
    """Yields the input and the target of every question in every format."""
    for question in questions:
        for form in formats.FORMATS.values():
            # A demonstration is the format's own input and target, so in-context texts hold nothing else.
            yield form.query_prefix + question.question + form.query_suffix
            yield form.render_target(question.rationale, question.gold)
