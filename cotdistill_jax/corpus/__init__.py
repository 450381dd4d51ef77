"""TFDS builders of the aligned corpora, and the student vocabularies they are written for.

| file | holds |
|---|---|
| `schema.py` | the rows of every corpus, and what its metadata say |
| `arith.py`, `gsm8k_gold.py`, `gsm8k_teacher.py`, `seed.py` | one TFDS builder each |
| `own.py` | a TFDS builder for any questions, any teacher, any vocabulary; finds the corpora that were built |
| `taught.py` | aligned records -> training rows, for every corpus with a teacher |
| `vocabularies.py` | `arith_vocabulary`, `t5_vocabulary`, `checksum` |

Builders are imported by module name: they bring TensorFlow Datasets along.
"""

from cotdistill_jax.corpus.vocabularies import arith_vocabulary, checksum, t5_vocabulary

__all__ = ["arith_vocabulary", "checksum", "t5_vocabulary"]
