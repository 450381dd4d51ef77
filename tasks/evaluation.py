"""Tasks `{benchmark}_{prompt}_eval_v1`: a benchmark's questions as `python -m cotdistill_jax.inference` puts them, T5's vocabulary.

Benchmarks are `gsm8k`, `multiarith`, `asdiv`, `svamp` and `bbh_{task}`; prompts the four modes of `inference.prompts` made of formats.
Their splits are those of `benchmarks.load` (`test`; of gsm8k also `dev`, of multiarith `test_400`). Mixtures of all tasks of a prompt:
`maths_{prompt}_eval_v1`, `bbh_{prompt}_eval_v1`, `benchmarks_{prompt}_eval_v1`. Under T5X:

    python -m t5x.eval --gin_search_paths=. --gin_file=LEAF --gin_file=gin/t5x/eval.gin --gin.MODEL_DIR="'RUN'" \\
      --gin.EVAL_MIXTURE_OR_TASK_NAME="'maths_zero_shot_cot_eval_v1'" --gin.EVAL_SPLIT="'test'" --gin.EVAL_NUM_EXAMPLES=None

Nothing is cut: an input that is longer than EVAL_FEATURE_LENGTHS stops the evaluation. Every
batch is padded to them, so that long prompts want a smaller EVAL_BATCH_SIZE or an ATTENTION_BLOCK.
"""

import functools

import seqio
import tensorflow as tf

from cotdistill_jax import benchmarks, features, seqio_tasks
from cotdistill_jax.inference import prompts

PROMPTS = ("zero_shot_cot", "zero_shot_answer_only", "cot_4_cases", "answer_only_4_cases")


def read(
    split: str, shuffle_files: bool = False, seed: int | None = None, *, benchmark: str, mode: str
) -> tf.data.Dataset:
    """Returns the questions of a split, rendered, with their golds as targets."""
    del shuffle_files, seed  # the order is that of the file
    prompt = prompts.build(mode, benchmark)
    questions = benchmarks.load(benchmark, split)
    return tf.data.Dataset.from_tensor_slices(
        {
            "question_id": [question.id for question in questions],
            "inputs": [prompt.render(question.question) for question in questions],
            "targets": [question.gold for question in questions],
            "answer": [question.gold for question in questions],
        }
    )


def _add(benchmark: str, mode: str) -> str:
    name = f"{benchmark.replace('/', '_')}_{mode}_eval_v1"
    is_maths = benchmark in benchmarks.MATHS
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            functools.partial(read, benchmark=benchmark, mode=mode),
            splits=benchmarks.splits(benchmark),
        ),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
            features.require_lengths,
        ],
        output_features=features.text_features(seqio_tasks.vocabularies.t5()),
        postprocess_fn=seqio_tasks.gold_or_prediction,
        metric_fns=[seqio_tasks.accuracy if is_maths else seqio_tasks.bbh_accuracy],
    )
    return name


for _mode in PROMPTS:
    _maths = [_add(benchmark, _mode) for benchmark in benchmarks.MATHS]
    _bbh = [_add(benchmark, _mode) for benchmark in benchmarks.BBH]
    for _name, _tasks in (("maths", _maths), ("bbh", _bbh), ("benchmarks", [*_maths, *_bbh])):
        seqio.MixtureRegistry.add(f"{_name}_{_mode}_eval_v1", _tasks, default_rate=1.0)
