r"""The paper's own output files for the maths sets, read and written.

A block per question, with `text` as the model wrote it, `</s>` included where it ended by itself, and `gold` as the
source has it (GSM8K: the whole solution; MultiArith: `[39.0]`):

    Q: <question>
    A_model:
    <text>
    A:
    <gold>
    (empty line)

Source: FranxYao/FlanT5-CoT-Specialization, test_distill.py at commit a8ffd51.
"""

import re
from collections.abc import Sequence

from cotdistill_jax import files
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference.predictions import Prediction, graded

_BLOCK = re.compile(
    r"Q: (?P<question>.*?)\nA_model:\n(?P<text>.*?)\nA:\n(?P<gold>.*?)\n\n(?=Q: |\Z)", re.DOTALL
)
_EOS = "</s>"


def write(path: files.AnyPath, predictions: Sequence[Prediction]) -> None:
    """Writes predictions as the paper's evaluation did."""
    blocks = [
        f"Q: {p.question}\nA_model:\n{p.text}{_EOS if p.finished else ''}\nA:\n{p.gold}\n\n"
        for p in predictions
    ]
    files.as_path(path).write_text("".join(blocks), encoding="utf-8")


def read(path: files.AnyPath, benchmark: str, prompt: str) -> list[Prediction]:
    """Returns the predictions of a file, graded by every rule of the benchmark.

    Args:
        path: the file; it names neither questions nor benchmark, so that ids are `<benchmark>/transcript/<row>`.
        benchmark: name in `benchmarks.NAMES`.
        prompt: prompt mode to note down.

    Raises:
        ValueError: the file is no text, or a part of it is no such block; the message gives the line.
    """
    content = files.read_text(path, "inference", "a transcript", markup=False)
    found: list[Prediction] = []
    end = 0
    while end < len(content):
        block = _BLOCK.match(content, end)
        if block is None:
            line = content.count("\n", 0, end) + 1
            raise ValueError(
                f"inference: {path} line {line}: expected a block 'Q: ...', 'A_model:', text, 'A:', gold and an empty "
                f"line, got {content[end : end + 60]!r}"
            )
        id_ = f"{benchmark}/transcript/{len(found)}"
        question = Question(id_, benchmark, block["question"], block["gold"])
        text = block["text"].removesuffix(_EOS).strip()
        finished = block["text"].endswith(_EOS)
        found.append(
            graded(question, prompt, text, log_prob=None, num_tokens=None, finished=finished)
        )
        end = block.end()
    return found
