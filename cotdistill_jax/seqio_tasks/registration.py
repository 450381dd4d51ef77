"""From a corpus and a format to a registered SeqIO task, and from rates to a mixture.

A task's pipeline, [teacher] only for chain-of-thought tasks of a corpus with a teacher:

    CorpusSource -> keep_first_of_question (answer only) -> targets: aligned pieces [teacher] or tokenised text
      -> inputs (zero-shot) -> seqio.CacheDatasetPlaceholder -> demonstrations and inputs (in-context)
      -> append_eos -> teacher row for EOS [teacher] or rows of zeros -> guard_lengths

A corpus of finished inputs (`FormattedTaskFamily`): CorpusSource -> targets and inputs -> placeholder -> append_eos and on as above.

Teacher rows are checked when a corpus is built (`corpus.schema`), not each time they are read.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import seqio

from cotdistill_jax import features, formats
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.corpus import schema
from cotdistill_jax.seqio_tasks import blocks, metrics, preprocessors, seed_batches
from cotdistill_jax.seqio_tasks.demonstrations import in_context_inputs
from cotdistill_jax.seqio_tasks.micro_batches import MicroBatchMixture
from cotdistill_jax.seqio_tasks.sources import ByQuestionSource, CorpusSource


@dataclasses.dataclass(frozen=True)
class TaskFamily:
    """The four tasks of one corpus.

    Attributes:
        source: Name of the corpus, and first part of its tasks' names.
        vocabulary: The student's vocabulary.
        has_teacher: Whether the corpus carries aligned teacher rows; its tasks then have the features of
            `features.output_features`, otherwise those of `features.text_features`.
        pool: Loads the training questions that demonstrations are drawn from.
        top_k: Candidates per piece in the corpus, K.
        splits: Splits of the corpus.
    """

    source: str
    vocabulary: seqio.SentencePieceVocabulary
    has_teacher: bool
    pool: Callable[[], Sequence[Question]]
    top_k: int = schema.TOP_K
    splits: Sequence[str] = schema.SPLITS

    def task_name(self, form: str, by_question: bool = False) -> str:
        """Returns the name of the task in a format, such as `arith_zero_shot_cot_v1`."""
        order = "_by_question" if by_question else ""
        return f"{self.source}_{formats.get_format(form).name}{order}_v1"

    def add_tasks(self) -> list[str]:
        """Registers the task of every format and returns their names."""
        return [self._add_task(form) for form in formats.FORMATS.values()]

    def add_by_question_tasks(self) -> list[str]:
        """Registers, per chain-of-thought format, `{source}_{format}_by_question_v1`: a question's samples in a row, in context
        with the same demonstrations, so that packing stores their inputs once.
        """
        return [
            self._add_task(form, by_question=True)
            for form in formats.FORMATS.values()
            if form.chain_of_thought
        ]

    def add_mixture(self, name: str, rates: Mapping[str, float]) -> str:
        """Registers the mixture `{source}_{name}_v1` and returns its name.

        Args:
            name: Middle part of its name.
            rates: Rate of each format's task; only their ratios matter.
        """
        mixture = f"{self.source}_{name}_v1"
        tasks = [(self.task_name(form), rate) for form, rate in rates.items()]
        seqio.MixtureRegistry.add(mixture, tasks)
        return mixture

    def add_same_question_mixture(
        self, name: str, rates: Mapping[str, float], block_sizes: Mapping[str, int]
    ) -> str:
        """Registers `{source}_{name}_same_question_v1` and returns its name: the same examples as `add_mixture`'s, arranged
        in blocks of one format in which a question's samples follow each other.

        Args:
            name: Middle part of its name.
            rates: Rate of each format's task, in examples; only their ratios matter.
            block_sizes: Examples in a block of each format.
        """
        mixture = f"{self.source}_{name}_same_question_v1"
        tasks = {
            self.task_name(form, by_question=formats.get_format(form).chain_of_thought): form
            for form in rates
        }
        seqio.MixtureRegistry.add(
            mixture,
            [(task, rates[form]) for task, form in tasks.items()],
            sample_fn=blocks.in_blocks([block_sizes[tasks[task]] for task in sorted(tasks)]),
        )
        return mixture

    def add_micro_batch_mixture(
        self, name: str, sizes: seed_batches.BatchSizes, forms: Iterable[str], same_question: bool
    ) -> str:
        """Registers `{source}_{name}_v2`, with `same_question` `{source}_{name}_same_question_v2`, and returns its name.

        The formats' examples come as often as in the original's epoch, and weigh as its micro-batches weighed them.

        Args:
            name: Middle part of its name.
            sizes: The original's micro-batches.
            forms: Its formats.
            same_question: Whether a question's samples follow each other, in blocks as long as an optimizer step of
                the original.
        """
        tasks = {}
        for form in forms:
            by_question = same_question and formats.get_format(form).chain_of_thought
            tasks[self.task_name(form, by_question)] = form
        mixture = MicroBatchMixture(
            f"{self.source}_{name}{'_same_question' if same_question else ''}_v2",
            *_micro_batches(sizes, tasks),
            arrange=(
                blocks.in_blocks([sizes.effective(tasks[task]) for task in sorted(tasks)])
                if same_question
                else blocks.by_example
            ),
        )
        seqio.MixtureRegistry.add_provider(mixture.name, mixture)
        return mixture.name

    def _add_task(self, form: formats.Format, by_question: bool = False) -> str:
        name = self.task_name(form.name, by_question)
        vocabulary = self.vocabulary
        seqio.TaskRegistry.add(
            name,
            source=(ByQuestionSource if by_question else CorpusSource)(
                self._corpus(form),
                schema.VERSION,
                self.splits,
                (lambda: vocabulary.sentencepiece_model_file) if self.has_teacher else None,
            ),
            preprocessors=self._preprocessors(form, by_question),
            output_features=(
                features.output_features(vocabulary, self.top_k)
                if self.has_teacher
                else features.text_features(vocabulary)
            ),
            postprocess_fn=metrics.gold_or_prediction,
            metric_fns=[metrics.accuracy],
            **({"shuffle_buffer_size": None} if by_question else {}),
        )
        return name

    def _corpus(self, form: formats.Format) -> str:
        """Returns the TFDS name of the corpus that a format's task reads."""
        return self.source

    def _preprocessors(self, form: formats.Format, by_question: bool) -> list[Callable[..., Any]]:
        from_teacher = self.has_teacher and form.chain_of_thought
        steps: list[Callable[..., Any]] = []
        if not form.chain_of_thought:
            steps.append(preprocessors.keep_first_of_question)
        field = "text" if form.chain_of_thought else "answer_sentence"
        steps.append(
            preprocessors.aligned_targets if from_teacher else preprocessors.text_targets(field)
        )
        inputs = (
            in_context_inputs(self.pool, form, self.vocabulary, once_per_question=by_question)
            if form.in_context
            else preprocessors.zero_shot_inputs(form)
        )
        # What is drawn anew for every epoch comes after the cache. The cache would forget the order of questions.
        cache = [] if by_question else [seqio.CacheDatasetPlaceholder()]
        steps += [*cache, inputs] if form.in_context else [inputs, *cache]
        return [*steps, *self._endings(from_teacher)]

    def _endings(self, from_teacher: bool) -> list[Callable[..., Any]]:
        """Returns the preprocessors that every task ends with: EOS, its teacher row, the guard of the lengths."""
        steps: list[Callable[..., Any]] = [seqio.preprocessors.append_eos]
        if from_teacher:
            steps += [features.append_teacher_eos, preprocessors.without_held_out_teacher]
        elif self.has_teacher:
            steps.append(features.zero_teacher)
        return [*steps, features.guard_lengths, preprocessors.fuse]


@dataclasses.dataclass(frozen=True)
class FormattedTaskFamily(TaskFamily):
    """The four tasks of a corpus whose inputs are finished texts: one TFDS config per format, in the field `input`."""

    def _corpus(self, form: formats.Format) -> str:
        return f"{self.source}/{form.name}"

    def add_negative_task(self) -> str:
        """Registers `{source}_{NEGATIVE_FORMAT}_v1`, wrong rationales in context, of split `train` alone; returns its name."""
        name = f"{self.source}_{schema.NEGATIVE_FORMAT}_v1"
        vocabulary = self.vocabulary
        seqio.TaskRegistry.add(
            name,
            source=CorpusSource(
                f"{self.source}/{schema.NEGATIVE_FORMAT}",
                schema.VERSION,
                ["train"],
                lambda: vocabulary.sentencepiece_model_file,
            ),
            preprocessors=[
                preprocessors.finished_inputs,
                preprocessors.text_targets("text"),
                seqio.CacheDatasetPlaceholder(),
                *self._endings(from_teacher=False),
            ],
            output_features=features.output_features(vocabulary, self.top_k),
            metric_fns=[],
        )
        return name

    def add_contrastive_mixture(self, name: str, sizes: seed_batches.BatchSizes) -> str:
        """Registers `{source}_{name}_contrastive_v2` and returns its name: `add_micro_batch_mixture`'s four formats and, as
        often as in the original, micro-batches of wrong rationales.

        Args:
            name: Middle part of its name.
            sizes: The original's micro-batches; wrong rationales come in those of `in_context_cot`.
        """
        tasks = {self.task_name(form): form for form in formats.FORMATS}
        rates, micro_batch_sizes = _micro_batches(sizes, tasks)
        negative = f"{self.source}_{schema.NEGATIVE_FORMAT}_v1"
        wrong = seed_batches.epoch(sizes).total_micro_batches / seed_batches.POSITIVE_PER_NEGATIVE
        rates[negative] = wrong * sizes.in_context_cot
        micro_batch_sizes[negative] = sizes.in_context_cot
        mixture = MicroBatchMixture(
            f"{self.source}_{name}_contrastive_v2",
            rates,
            micro_batch_sizes,
            negative=[negative],
        )
        seqio.MixtureRegistry.add_provider(mixture.name, mixture)
        return mixture.name

    def _preprocessors(self, form: formats.Format, by_question: bool) -> list[Callable[..., Any]]:
        targets = (
            preprocessors.aligned_targets
            if form.chain_of_thought
            else preprocessors.text_targets("text")
        )
        cache = seqio.CacheDatasetPlaceholder()
        return [
            preprocessors.finished_inputs,
            targets,
            cache,
            *self._endings(from_teacher=form.chain_of_thought),
        ]


def _micro_batches(
    sizes: seed_batches.BatchSizes, tasks: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, int]]:
    """Returns, by task, how often its examples come in the original's epoch, and its micro-batch size; `tasks` names the format of each."""
    examples = seed_batches.epoch(sizes).examples
    rates = {task: float(examples[form]) for task, form in tasks.items()}
    return rates, {task: getattr(sizes, form) for task, form in tasks.items()}
