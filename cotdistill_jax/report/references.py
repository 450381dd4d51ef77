"""Accuracies that the paper's code printed, to hold a run against; none of them was measured here.

Source: printed outputs of the notebooks and logs of FranxYao/FlanT5-CoT-Specialization, commit a8ffd51 (Fu et al. 2023,
arXiv 2301.12726).
"""

import dataclasses

SOURCE = "FranxYao/FlanT5-CoT-Specialization a8ffd51, printed outputs"


@dataclasses.dataclass(frozen=True)
class Reference:
    """One printed accuracy, or the range of several.

    Attributes:
        benchmark: as results name it: `gsm8k:dev`, `multiarith`, ...
        model: which model answered.
        prompt: how it was asked.
        low: lowest printed accuracy, per cent.
        high: highest printed accuracy, per cent; equal to `low` for a single one.
        n: questions.
        caveat: why it may not be comparable; empty if nothing is known.
    """

    benchmark: str
    model: str
    prompt: str
    low: float
    high: float
    n: int
    caveat: str = ""

    @property
    def accuracy(self) -> str:
        """The accuracy as text: "19.5 to 22.0" or "7.0", per cent."""
        same = self.low == self.high
        return f"{self.low:.4g}" if same else f"{self.low:.4g} to {self.high:.4g}"


_GRADER = "graded by the paper's last-number rule (compare `seed_last_number`)"
_CONTAMINATED = f"contaminated: these 200 questions were in its training data; {_GRADER}"
_ASDIV = f"56 golds hold no number and count as right there; {_GRADER}"
_DISTILLED = "FlanT5-XL, distilled"
_HELD = f"400 of 600 questions, the paper's own unpublished selection; {_GRADER}"

_TEACHER, _TRAIN = "code-davinci-002 (teacher)", "questions of the training set"

REFERENCES = (
    Reference("gsm8k:dev", "FlanT5-XXL", "CoT prompts", 19.5, 22.0, 200, _GRADER),
    Reference("gsm8k:dev", "FlanT5-XL", "CoT prompts", 13.5, 15.0, 200, _GRADER),
    Reference("gsm8k:dev", "FlanT5-XXL", "direct prompt", 7.0, 7.0, 200, _GRADER),
    Reference("gsm8k:dev", "FlanT5-XL", "direct prompt", 4.5, 4.5, 200, _GRADER),
    Reference("gsm8k:dev", _DISTILLED, "4-case CoT prompt", 31.5, 31.5, 200, _CONTAMINATED),
    Reference("multiarith", "FlanT5-XXL", "CoT prompts", 51.3, 53.3, 400, _HELD),
    Reference("multiarith", "FlanT5-XL", "CoT prompts", 23.3, 24.0, 400, _HELD),
    Reference("multiarith", "FlanT5-XXL", "direct prompt", 13.0, 13.0, 400, _HELD),
    Reference("multiarith", "FlanT5-XL", "direct prompt", 12.8, 12.8, 400, _HELD),
    Reference("multiarith", _DISTILLED, "4-case CoT prompt", 26.75, 26.75, 400, _HELD),
    Reference("asdiv", "FlanT5-XL", "prompt not stated", 20.56, 20.56, 2305, _ASDIV),
    Reference("gsm8k:train", _TEACHER, "first sample", 63.84, 63.84, 7473, _TRAIN),
    Reference("gsm8k:train", _TEACHER, "majority of 40 to 50 samples", 83.79, 83.79, 7473, _TRAIN),
    Reference("gsm8k:train", "FlanT5-XXL", "first sample", 11.17, 11.17, 7473, _TRAIN),
    Reference("gsm8k:train", "FlanT5-XXL", "majority vote", 20.23, 20.23, 7473, _TRAIN),
)


def for_benchmark(benchmark: str) -> tuple[Reference, ...]:
    """Returns the references for a benchmark, whatever its split.

    Example: `for_benchmark("multiarith:test_400")` holds the same five as `for_benchmark("multiarith")`.
    """
    name = benchmark.partition(":")[0]
    return tuple(r for r in REFERENCES if r.benchmark.partition(":")[0] == name)
