"""Tasks of the corpora of one's own (`corpus.own`) that lie in `$COTDISTILL_TFDS_DIR` when this is imported; TFDS's own folder where that is not set."""

import functools
import os
import pathlib

import seqio
import tensorflow_datasets as tfds

from cotdistill_jax import corpus, seqio_tasks
from cotdistill_jax.corpus import own
from cotdistill_jax.seqio_tasks.sources import DATA_DIR_VARIABLE


def _vocabulary(found: own.Found) -> seqio.SentencePieceVocabulary:
    """Returns one of ours where the content is the same, so that evaluation tasks have an equal one."""
    if own.is_of(found.vocabulary_file, corpus.arith_vocabulary()):
        return seqio_tasks.vocabularies.arith()
    try:
        is_t5 = own.is_of(found.vocabulary_file, pathlib.Path(corpus.t5_vocabulary()))
    except FileNotFoundError:
        is_t5 = False
    if is_t5:
        return seqio_tasks.vocabularies.t5()
    return seqio.SentencePieceVocabulary(str(found.vocabulary_file), extra_ids=found.extra_ids)


FAMILIES = tuple(
    seqio_tasks.TaskFamily(
        source=found.name,
        vocabulary=_vocabulary(found),
        has_teacher=True,
        pool=functools.cache(found.pool),
        splits=found.splits,
    )
    for found in own.find(
        os.path.expanduser(os.environ.get(DATA_DIR_VARIABLE) or str(tfds.core.constants.DATA_DIR))
    )
)
for _family in FAMILIES:
    _family.add_tasks()
