"""A SentencePiece vocabulary, opened with an error that names what the file really holds."""

from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from cotdistill_jax.files.content import ForeignFileError, refuse_foreign_content
from cotdistill_jax.files.paths import AnyPath, as_path


def open_vocabulary(path: AnyPath, stage: str) -> sentencepiece.SentencePieceProcessor:
    """Returns the processor of a SentencePiece model file.

    Args:
        path: of the model, such as `t5/spiece.model`.
        stage: first word of the messages.

    Raises:
        FileNotFoundError: no such file.
        ForeignFileError: it holds something else: an LFS pointer, a web page, a `tokenizer.json`, a part of a model, or no model.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{stage}: no vocabulary at {path}. Pass a SentencePiece model, such as t5/spiece.model in the folder that "
            "scripts/download_benchmarks.py fills."
        )
    refuse_foreign_content(path, stage, "a SentencePiece model")
    content = path.read_bytes()
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, OSError) as error:
        raise ForeignFileError(
            f"{stage}: {path} is not a SentencePiece model (it begins with {content[:20]!r}). Use the file spiece.model of the model, not "
            "tokenizer.json or a vocabulary in text."
        ) from error
    # SentencePiece opens a file that ends after any piece; its settings come after all of them.
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    model.ParseFromString(content)
    if not model.HasField("normalizer_spec"):
        raise ForeignFileError(
            f"{stage}: {path} ends after {len(processor):,} pieces, before the settings of a SentencePiece model: it is cut off. Fetch "
            "it again."
        )
    return processor
