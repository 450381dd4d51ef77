"""What an evaluation answers: every benchmark with every prompt, loaded and checked before a model is."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from cotdistill_jax import benchmarks, files
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import prompts


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Several drawn texts per question instead of the most likely one.

    Attributes:
        num_samples: texts per question, at least 1.
        temperature: positive.
        top_k: tokens kept at every step, or None for all.
        top_p: probability kept at every step, or None for all.
        seed: seed of the draws.
    """

    num_samples: int
    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the number of samples; `decoding.Sampler` checks the other values."""
        if self.num_samples < 1:
            raise ValueError(f"inference: num_samples must be at least 1, got {self.num_samples}")


@dataclasses.dataclass(frozen=True)
class Part:
    """One benchmark with one prompt: what fills one prediction file.

    Attributes:
        benchmark: name with split, `gsm8k:dev`; without one where the split is `test`.
        prompt: what is put around the questions.
        questions: at least one.
        sampling: how texts are drawn; None for greedy decoding.
    """

    benchmark: str
    prompt: prompts.Prompt
    questions: tuple[Question, ...]
    sampling: Sampling | None = None

    @property
    def key(self) -> str:
        """Name of the prediction file without its ending."""
        prompt = self.prompt.mode
        if prompt.startswith(prompts.FILE_PREFIX):
            path = files.as_path(prompt.removeprefix(prompts.FILE_PREFIX))
            prompt = f"file-{path.stem}"
        benchmark = self.benchmark.replace("/", "_").replace(":", "-")
        return f"{benchmark}.{prompt}" + (".samples" if self.sampling else "")

    @property
    def num_samples(self) -> int:
        """Texts per question."""
        return self.sampling.num_samples if self.sampling else 1

    @property
    def settings(self) -> dict[str, Any]:
        """What two calls that fill one file must have in common, checksums included; samples may be added."""
        drawn = None
        if self.sampling:
            drawn = dataclasses.asdict(self.sampling)
            del drawn["num_samples"]
        texts = [f"{q.id}\0{q.question}\0{q.gold}\0" for q in self.questions]
        return {
            "benchmark": self.benchmark,
            "num_questions": len(self.questions),
            "questions_sha256": hashlib.sha256("".join(texts).encode()).hexdigest(),
            "prompt": self.prompt.mode,
            "prompt_sha256": self.prompt.sha256,
            "sampling": drawn,
        }


def plan(
    benchmark_names: Sequence[str],
    prompt_modes: Sequence[str],
    *,
    data_dir: files.AnyPath | None = None,
    num_examples: int | None = None,
    sampling: Sampling | None = None,
) -> list[Part]:
    """Returns the parts of an evaluation: every benchmark with every prompt.

    Args:
        benchmark_names: `gsm8k`, `gsm8k:dev`, `bbh/navigate`, `bbh` for all its tasks, ...
        prompt_modes: names in `prompts.MODES`, or `file:<path>`.
        data_dir: benchmark folder; None reads COTDISTILL_DATA_DIR.
        num_examples: the first so many questions of each benchmark; None for all.
        sampling: how texts are drawn; None for greedy decoding.

    Raises:
        ValueError: unknown benchmark, split or prompt, nothing asked for, or two prompts of one name.
        FileNotFoundError: a benchmark or prompt file is missing.
    """
    if num_examples is not None and num_examples < 1:
        raise ValueError(f"inference: num_examples must be at least 1, got {num_examples}")
    names = [
        name
        for asked in benchmark_names
        for name in (benchmarks.BBH if asked == "bbh" else (asked.removesuffix(":test"),))
    ]
    parts = []
    for name in dict.fromkeys(names):
        bare, _, split = name.partition(":")
        questions = benchmarks.load(bare, split or "test", data_dir)[:num_examples]
        for mode in dict.fromkeys(prompt_modes):
            prompt = prompts.build(mode, bare, data_dir)
            parts.append(Part(name, prompt, tuple(questions), sampling))
    keys = [part.key for part in parts]
    if not parts or len(set(keys)) < len(keys):
        raise ValueError(
            f"inference: expected at least one benchmark and one prompt, of different names, got benchmarks "
            f"{list(benchmark_names)} and prompts {list(prompt_modes)}"
        )
    return parts
