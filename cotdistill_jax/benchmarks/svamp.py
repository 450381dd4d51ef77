"""SVAMP: 1,000 one-step problems with varied wording, one file without splits.

A problem comes as `Body` and `Question`. 642 bodies end in a full stop, and the question follows after a
space. The other 358 end in a clause without punctuation ("If there are 692 girls"), and get ". " first, as
in the published evaluations. (The paper's code adds ". " to every body and so doubles 642 full stops.)

Source: Patel et al. 2021, arXiv 2103.07191.
"""

from cotdistill_jax import files
from cotdistill_jax.benchmarks import reading
from cotdistill_jax.benchmarks.question import Question

SPLITS = ("test",)
_PUNCTUATION = ".,;:!?"


def load(split: str = "test", data_dir: files.AnyPath | None = None) -> list[Question]:
    """Returns all questions in file order; `test` is the only split."""
    path = reading.data_path("svamp/SVAMP.json", data_dir)
    questions = []
    for row, record in enumerate(reading.read_json_list(path)):
        body = reading.field(record, "Body", str, path, row)
        text = join_body(body, reading.field(record, "Question", str, path, row))
        answer = reading.field(record, "Answer", (int, float), path, row)
        gold = reading.number_text(answer, "Answer", path, row)
        questions.append(Question(f"svamp/{split}/{row}", "svamp", text, gold))
    return questions


def join_body(body: str, question: str) -> str:
    """Returns body and question as one text with exactly one punctuation mark between them.

    Examples: `("He had 3 dimes.", "How many now?")` gives `"He had 3 dimes. How many now?"`, and
    `("If he had 3 dimes", "How many now?")` gives `"If he had 3 dimes. How many now?"`.
    """
    body = body.strip()
    separator = " " if body[-1:] in _PUNCTUATION else ". "
    return body + separator + question.strip()
