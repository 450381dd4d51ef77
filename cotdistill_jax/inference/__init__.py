"""From a checkpoint and benchmarks to predictions and accuracies: `python -m cotdistill_jax.inference --help`.

| file | holds |
|---|---|
| `planning.py` | every benchmark with every prompt, loaded and checked |
| `prompts.py` | the text around a question, per prompt mode and benchmark |
| `lengths.py` | prompts that are too long: an error, or shorter and counted |
| `predictions.py` | prediction files: appended batch by batch, resumable |
| `scoring.py` | every answer rule side by side, intervals |
| `voting.py` | self-consistency: majority vote, curve over the number of samples |
| `verification.py` | the verifier: labelled samples, reranking, weighted vote |
| `comparison.py` | two prediction files for the same questions: McNemar, disagreements |
| `seed_transcripts.py` | the paper's output files, read and written |
| `results.py`, `manifest.py` | what stands beside the predictions |
| `vocabulary.py` | text to ids and back |
| `selection.py` | which checkpoints a call evaluates, and loading them (needs jax) |
| `generation.py` | prompts to completions (needs jax) |
| `self_teaching.py` | completions with alternatives as teacher records |
| `verifier_model.py` | scores of a trained verifier (needs jax) |
| `processes.py` | what several processes do alike, and the first for all (needs jax) |
| `evaluation.py` | all of it together |
"""

from cotdistill_jax.inference.comparison import Comparison, compare, exact_mcnemar
from cotdistill_jax.inference.evaluation import evaluate, is_finished
from cotdistill_jax.inference.planning import Sampling, plan
from cotdistill_jax.inference.predictions import Prediction
from cotdistill_jax.inference.predictions import read as read_predictions
from cotdistill_jax.inference.results import read as read_results
from cotdistill_jax.inference.results import table
from cotdistill_jax.inference.scoring import Result, Score, rules_for, tally, wilson_interval

__all__ = [
    "Comparison",
    "Prediction",
    "Result",
    "Sampling",
    "Score",
    "compare",
    "evaluate",
    "exact_mcnemar",
    "is_finished",
    "plan",
    "read_predictions",
    "read_results",
    "rules_for",
    "table",
    "tally",
    "wilson_interval",
]
