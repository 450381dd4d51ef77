"""BIG-Bench Hard: 27 tasks that need several reasoning steps, used here as a test of generic ability.

Files: `bbh/bbh/<task>.json` (questions) and `bbh/cot-prompts/<task>.txt` (the published prompts).

Source: Suzgun et al. 2022, arXiv 2210.09261.
"""

from cotdistill_jax import files
from cotdistill_jax.benchmarks import reading
from cotdistill_jax.benchmarks.question import Question
from cotdistill_jax.files import read_text

SPLITS = ("test",)
TASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)
_HEADER_END = "\n-----\n"


def load(task: str, split: str = "test", data_dir: files.AnyPath | None = None) -> list[Question]:
    """Returns all questions of one of `TASKS`, in file order; `test` is the only split."""
    path = reading.data_path(f"bbh/bbh/{task}.json", data_dir)
    content = reading.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("examples"), list):
        raise ValueError(f"benchmarks: {path} must hold an object with a list 'examples'")
    questions = []
    for row, record in enumerate(content["examples"]):
        text = reading.field(record, "input", str, path, row).strip()
        gold = reading.field(record, "target", str, path, row).strip()
        questions.append(Question(f"bbh/{task}/{split}/{row}", f"bbh/{task}", text, gold))
    return questions


def cot_prompt(task: str, data_dir: files.AnyPath | None = None) -> str:
    """Returns the published chain-of-thought prompt of a task, without the canary header above it."""
    if task not in TASKS:
        raise ValueError(f"benchmarks: unknown BBH task {task!r}; allowed: {', '.join(TASKS)}")
    path = reading.data_path(f"bbh/cot-prompts/{task}.txt", data_dir)
    header, mark, prompt = read_text(path, "benchmarks", "a prompt").partition(_HEADER_END)
    if not mark or "\n" in header or not prompt.strip():
        raise ValueError(f"benchmarks: {path} must be a canary line, '-----' and a prompt")
    return prompt.strip()
