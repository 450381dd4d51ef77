"""What the aligners ask about strings, answered once per distinct string and kept as integer arrays.

Teacher tokens and candidates repeat a few thousand strings millions of times. `PieceTable` numbers them, asks SentencePiece once
per string, and hands out arrays that are indexed by that number, so that the rules themselves are array operations.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import sentencepiece
    import seqio

SPACE = "▁"
# A private-use character that no vocabulary has: what follows it is segmented as in the middle of a word, without the "▁" that
# SentencePiece puts before a text.
_MID_WORD_MARK = "\ue000"
MAX_VOCABULARY_SIZE = 1 << 16
NO_PIECE = -1


class PieceTable:
    """Numbers teacher strings and knows the student's pieces for them.

    Attributes:
        processor: the loaded SentencePiece model.
        piece_chars: int32 [V], characters of each piece.
        begins_with_space: bool [V], whether the piece begins with "▁".
        chars: int32 [strings], characters of each teacher string.
        first_at_word: int32 [strings], id of the first piece of the string at the start of a word; -1 where there is none (white
            space only, or `<unk>`).
        first_mid_word: int32 [strings], the same right after a character that is not a space.
        exact: int32 [strings], id of the piece that equals the string after " " -> "▁", else -1.
    """

    def __init__(
        self, vocabulary: seqio.SentencePieceVocabulary | sentencepiece.SentencePieceProcessor
    ) -> None:
        """Prepares the table.

        Args:
            vocabulary: SeqIO vocabulary, or the processor it loads.

        Raises:
            ValueError: more than 65,536 pieces, or byte fallback, which this project does not store.
        """
        self.processor: Any = getattr(vocabulary, "tokenizer", vocabulary)
        size = self.processor.get_piece_size()
        if size > MAX_VOCABULARY_SIZE:
            raise ValueError(
                f"alignment: the vocabulary has {size} pieces, at most {MAX_VOCABULARY_SIZE} fit the 16-bit ids of a corpus. "
                "Use a T5 vocabulary."
            )
        if any(self.processor.is_byte(piece) for piece in range(min(size, 512))):
            raise ValueError(
                "alignment: the vocabulary spells unknown characters as bytes (byte fallback), which has no character offsets. "
                "Use a vocabulary with <unk>, such as T5's."
            )
        self.unk_id = self.processor.unk_id()
        self.space_id = self.processor.piece_to_id(SPACE)
        pieces = [self.processor.id_to_piece(piece) for piece in range(size)]
        self.piece_chars = np.array([len(piece) for piece in pieces], np.int32)
        self.begins_with_space = np.array([piece.startswith(SPACE) for piece in pieces])
        self.strings: list[str] = []
        self._number: dict[str, int] = {}
        self._first: dict[tuple[str, bool], dict[int, int]] = {}
        self._letters, self._letter_starts = np.zeros(0, np.int32), np.zeros(1, np.int64)
        self.chars = self.first_at_word = self.first_mid_word = self.exact = np.zeros(0, np.int32)

    def number(self, strings: Iterable[str]) -> np.ndarray:
        """Returns the number of each string, int32, adding the strings that are new."""
        known = self._number
        strings = list(strings)
        try:
            return np.fromiter(map(known.__getitem__, strings), np.int32, len(strings))
        except KeyError:
            new = [string for string in dict.fromkeys(strings) if string not in known]
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            self._describe(new)
            return np.fromiter(map(known.__getitem__, strings), np.int32, len(strings))

    def first_piece(self, string: str, at_word: bool) -> int:
        """Returns the id of the first piece of `string` in its context, or -1.

        Args:
            string: text that follows.
            at_word: whether a "▁" precedes it: start of the text, or whitespace before.

        Example (T5 vocabulary): " clips in" -> "▁clips"; "alia" in the middle of a word -> "alia", at the start of one -> "▁Ali"
        or what the vocabulary has; "\\n" -> -1, because what follows decides.
        """
        if at_word:
            return self._known_id(self.processor.encode(string, out_type=str)[:1])
        pieces = self.processor.encode(_MID_WORD_MARK + string, out_type=str)
        marked = next(index for index, piece in enumerate(pieces) if _MID_WORD_MARK in piece)
        if not pieces[marked].endswith(_MID_WORD_MARK):
            return NO_PIECE  # SentencePiece joins neighbouring unknown characters: the string begins with one
        return self._known_id(pieces[marked + 1 : marked + 2])

    def first_pieces_after(self, pending: str, at_word: bool, strings: Sequence[int]) -> list[int]:
        """Returns the first piece of `pending` followed by each numbered string, remembered; strings may hold -1."""
        known = self._first.get((pending, at_word))
        if known is None:
            known = self._first[pending, at_word] = {NO_PIECE: NO_PIECE}
        try:
            return list(map(known.__getitem__, strings))
        except KeyError:
            for string in strings:
                if string not in known:
                    known[string] = self.first_piece(pending + self.strings[string], at_word)
            return [known[string] for string in strings]

    def string_letters(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the letters of all numbered strings without spaces, int32, and where each begins, int64 [strings + 1].

        Letters are numbered as in `piece_letters`; 0 stands for those that no piece has.
        """
        new = self.strings[len(self._letter_starts) - 1 :]
        if new:
            codes, starts = _code_points([string.replace(" ", "") for string in new])
            places = np.searchsorted(self._alphabet[:-1], codes)
            letters = np.where(self._alphabet[places] == codes, places + 1, 0).astype(np.int32)
            self._letters = np.concatenate([self._letters, letters])
            self._letter_starts = np.concatenate(
                [self._letter_starts, starts[1:] + self._letter_starts[-1]]
            )
        return self._letters, self._letter_starts

    @functools.cached_property
    def piece_letters(self) -> tuple[np.ndarray, np.ndarray]:
        """The letters of all pieces without "▁", int32, numbered from 1, and where each piece begins, int64 [V + 1]."""
        codes, starts = self._piece_codes
        return (np.searchsorted(self._alphabet, codes) + 1).astype(np.int32), starts

    @functools.cached_property
    def _alphabet(self) -> np.ndarray:
        return np.unique(self._piece_codes[0])

    @functools.cached_property
    def _piece_codes(self) -> tuple[np.ndarray, np.ndarray]:
        size = self.processor.get_piece_size()
        return _code_points(
            [self.processor.id_to_piece(piece).replace(SPACE, "") for piece in range(size)]
        )

    def _known_id(self, pieces: Sequence[str]) -> int:
        piece = self.processor.piece_to_id(pieces[0]) if pieces else self.unk_id
        return NO_PIECE if piece == self.unk_id else piece

    def _describe(self, new: Sequence[str]) -> None:
        def extend(old: np.ndarray, values: list[int]) -> np.ndarray:
            return np.concatenate([old, np.array(values, old.dtype)])

        self.strings.extend(new)
        self.chars = extend(self.chars, [len(string) for string in new])
        self.first_at_word = extend(
            self.first_at_word, [self.first_piece(string, True) for string in new]
        )
        self.first_mid_word = extend(
            self.first_mid_word, [self.first_piece(string, False) for string in new]
        )
        self.exact = extend(self.exact, [self._exact(string) for string in new])

    def _exact(self, string: str) -> int:
        piece = self.processor.piece_to_id(string.replace(" ", SPACE))
        return NO_PIECE if piece == self.unk_id or self.processor.is_control(piece) else piece


def _code_points(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.concatenate([[0], np.cumsum([len(string) for string in strings], dtype=np.int64)])
    return np.frombuffer("".join(strings).encode("utf-32-le", "surrogatepass"), np.int32), starts
