"""ASDiv: 2,305 diverse primary-school problems, one XML file without splits.

Question text is `Body Question`. Golds stay as written: mostly a number with its unit (`9 (apples)`), some
times (`3:30 p.m.`), ratios (`5:6`), fractions (`5/2`), several numbers (`9; 11`) and 56 without any number.

Source: Miao et al. 2020, ACL; chaochun/nlu-asdiv-dataset.
"""

import xml.etree.ElementTree as ElementTree

from cotdistill_jax import files
from cotdistill_jax.benchmarks import reading
from cotdistill_jax.benchmarks.question import Question
from cotdistill_jax.files import refuse_foreign_content

SPLITS = ("test",)


def load(split: str = "test", data_dir: files.AnyPath | None = None) -> list[Question]:
    """Returns all questions in file order; `test` is the only split."""
    path = reading.data_path("asdiv/ASDiv.xml", data_dir)
    refuse_foreign_content(path, "benchmarks", "XML", markup=True)
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise ValueError(f"benchmarks: {path} is not valid XML: {error}") from error
    questions = []
    for row, problem in enumerate(root.iter("Problem")):
        record = {child.tag: child.text or "" for child in problem}
        body, question, gold = (
            reading.field(record, name, str, path, row).strip()
            for name in ("Body", "Question", "Answer")
        )
        questions.append(Question(f"asdiv/{split}/{row}", "asdiv", f"{body} {question}", gold))
    return questions
