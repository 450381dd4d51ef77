"""Tasks of the corpora of one's own (`corpus.own`) that lie in `$COTDISTILL_TFDS_DIR` when this is imported; TFDS's own folder where that is not set."""

import functools

import seqio

from cotdistill_jax import corpus, seqio_tasks
from cotdistill_jax.corpus import own
from cotdistill_jax.seqio_tasks.sources import default_data_dir


def _vocabulary(found: own.Found) -> seqio.SentencePieceVocabulary:
    """Returns one of ours where the content is the same, so that evaluation tasks have an equal one."""
    sha256 = corpus.checksum(found.vocabulary_file)
    if sha256 == corpus.checksum(corpus.arith_vocabulary()):
        return seqio_tasks.vocabularies.arith()
    try:
        is_t5 = sha256 == corpus.checksum(corpus.t5_vocabulary())
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
    for found in own.find(default_data_dir())
)
for _family in FAMILIES:
    _family.add_tasks()
