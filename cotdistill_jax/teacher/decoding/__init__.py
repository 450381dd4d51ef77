"""Asking a teacher behind an OpenAI-compatible endpoint: `scripts/decode_teacher.py`.

| file | holds |
|---|---|
| `questions.py` | what is asked, and how answers are drawn |
| `answers.py` | the endpoint's JSON to texts, tokens and probabilities |
| `key.py` | an API key without what copying left around it |
| `endpoint.py` | the client: both APIs, retries, what a failure means |
| `pace.py` | rate limits, and stopping |
| `budget.py` | estimate, prices, spend cap |
| `journal.py`, `store.py` | what is on disk, from the moment on that it was paid for |
| `run.py` | all of it together |

Needs the packages `openai` and `tenacity` (extra `teacher`).
"""

from cotdistill_jax.teacher.decoding.answers import Usage
from cotdistill_jax.teacher.decoding.budget import Budget, Estimate, Prices, estimate
from cotdistill_jax.teacher.decoding.endpoint import APIS, Endpoint
from cotdistill_jax.teacher.decoding.key import clean_key
from cotdistill_jax.teacher.decoding.pace import Pace, Stop
from cotdistill_jax.teacher.decoding.questions import PromptedQuestion, Sampling
from cotdistill_jax.teacher.decoding.run import FAILURES_IN_A_ROW, INTERRUPTED, SPEND_CAP, Plan, Run
from cotdistill_jax.teacher.decoding.store import Finished, FolderInUseError, Store, usage_of

__all__ = [
    "APIS",
    "FAILURES_IN_A_ROW",
    "INTERRUPTED",
    "SPEND_CAP",
    "Budget",
    "Endpoint",
    "Estimate",
    "Finished",
    "FolderInUseError",
    "Pace",
    "Plan",
    "Prices",
    "PromptedQuestion",
    "Run",
    "Sampling",
    "Stop",
    "Store",
    "Usage",
    "clean_key",
    "estimate",
    "usage_of",
]
