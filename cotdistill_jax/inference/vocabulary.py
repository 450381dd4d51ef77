"""Text to token ids and back, with SentencePiece alone: evaluation needs neither SeqIO nor TensorFlow.

Same ids and same text as `seqio.SentencePieceVocabulary`, with T5's conventions: pad 0, eos 1, unk 2.
"""

from collections.abc import Sequence

from cotdistill_jax import files
from cotdistill_jax.files import file_sha256

EOS_ID = 1


class Vocabulary:
    """A SentencePiece vocabulary.

    Attributes:
        sha256: checksum of its file.
    """

    def __init__(self, file: files.AnyPath) -> None:
        """Loads the vocabulary.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no SentencePiece model, or its EOS is not 1.
        """
        path = files.as_path(file)
        if not path.is_file():
            raise FileNotFoundError(
                f"inference: the checkpoint's vocabulary {path} does not exist; copy the SentencePiece "
                "model it was trained with there"
            )
        self._processor = files.open_vocabulary(path, "inference")
        if self._processor.eos_id() != EOS_ID:
            raise ValueError(
                f"inference: {path} has EOS id {self._processor.eos_id()}, expected {EOS_ID}; "
                "use a vocabulary with T5's conventions (pad 0, eos 1, unk 2)"
            )
        self.sha256 = file_sha256(path)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, EOS included. White space at its end leaves no trace."""
        return [*self._processor.encode(text), EOS_ID]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids` up to the first EOS; an id beyond the pieces reads as unknown."""
        kept = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
        size, unknown = self._processor.get_piece_size(), self._processor.unk_id()
        text: str = self._processor.decode([i if i < size else unknown for i in kept])
        return text

    def can_spell(self, text: str) -> bool:
        """Returns whether the text has no character that the vocabulary lacks, such as `{` and `<` in T5's."""
        return self._processor.unk_id() not in self._processor.encode(text)

    def characters(self, id_: int) -> str:
        """Returns what a piece stands for in a text, spaces included; "" for one that stands for no characters.

        Example: the piece "▁boxes" is " boxes", EOS is "".
        """
        processor = self._processor
        if (
            id_ >= processor.get_piece_size()
            or processor.is_control(id_)
            or processor.is_unknown(id_)
        ):
            return ""
        piece: str = processor.id_to_piece(id_)
        return piece.replace("▁", " ")
