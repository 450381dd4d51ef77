"""The part of TensorFlow Text that SeqIO uses for SentencePiece, by the package `sentencepiece` inside of TensorFlow's graph.

TensorFlow Text has no wheel for Python 3.14. The pieces are the same; such a graph runs in one process and cannot be saved.
"""

import sentencepiece
import tensorflow as tf


class SentencepieceTokenizer:
    """Tokenizes and detokenizes tensors of text.

    Args:
      model: a serialized SentencePiece model.
    """

    def __init__(self, model: bytes):
        """See the class."""
        self._model = sentencepiece.SentencePieceProcessor(model_proto=model)

    def tokenize(self, text):
        """Returns ids, int32: [pieces] of a text, a ragged [B, pieces] of texts [B]."""
        text = tf.convert_to_tensor(text)
        if text.shape.rank == 0:
            return self._ids(text)
        ids = tf.map_fn(
            lambda one: tf.RaggedTensor.from_tensor(self._ids(one)[None]),
            text,
            fn_output_signature=tf.RaggedTensorSpec([1, None], tf.int32),
        )
        return ids.merge_dims(0, 1)

    def detokenize(self, ids):
        """Returns the text of ids [L], the texts [B] of ids [B, L], which may be ragged."""
        if isinstance(ids, tf.RaggedTensor) or ids.shape.rank == 2:
            return tf.map_fn(self.detokenize, ids, fn_output_signature=tf.string)
        text = tf.numpy_function(lambda row: self._model.decode(row.tolist()), [ids], tf.string)
        return tf.ensure_shape(text, [])

    def _ids(self, text):
        encode = lambda one: tf.constant(self._model.encode(one.decode("utf-8")), tf.int32).numpy()  # noqa: E731
        return tf.ensure_shape(tf.numpy_function(encode, [text], tf.int32), [None])
