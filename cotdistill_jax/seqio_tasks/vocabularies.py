"""The students' vocabularies as SeqIO objects; tasks and models must use the same ones."""

import functools
from typing import Any

import seqio

from cotdistill_jax import corpus, files

T5_EXTRA_IDS = 100
T5_VOCABULARY_SIZE = 32_000 + T5_EXTRA_IDS


@functools.cache
def arith() -> seqio.SentencePieceVocabulary:
    """Returns the vocabulary of the `arith` student: 512 pieces."""
    return seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()))


@functools.cache
def t5() -> seqio.SentencePieceVocabulary:
    """Returns T5's vocabulary, 32,000 pieces and 100 extra ids; its file is looked for at first use.

    Raises, at first use:
        FileNotFoundError: If COTDISTILL_DATA_DIR has no `t5/spiece.model`.
        files.ForeignFileError: If that file is no SentencePiece model.
    """
    return _T5Vocabulary()


@functools.cache
def _check(file: str) -> None:
    """Raises what SeqIO would say as a fault of its own where a file is no SentencePiece model."""
    files.open_vocabulary(file, "tasks")


class _T5Vocabulary(seqio.SentencePieceVocabulary):
    """T5's vocabulary without its file's path, so that declaring a task needs no file."""

    def __init__(self) -> None:
        super().__init__(sentencepiece_model_file="", extra_ids=T5_EXTRA_IDS)

    @property
    def sentencepiece_model_file(self) -> str:
        """Path of the file; raises `FileNotFoundError` where it is missing, `files.ForeignFileError` where it is no vocabulary."""
        file = str(corpus.t5_vocabulary())
        _check(file)
        return file

    def _model_context(self) -> Any:
        self._sentencepiece_model_file = self.sentencepiece_model_file
        return super()._model_context()

    @property
    def _base_vocab_size(self) -> int:
        # SeqIO adds the extra ids to the pieces when it loads the file, so its "base" size has them, too.
        return T5_VOCABULARY_SIZE

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _T5Vocabulary):
            return True
        self.load_model()  # a plain SeqIO vocabulary is equal if it names the same file
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]
