"""What differs between the configuration a run folder was made with and the one it is continued with."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

# What may change without a word: it decides when things are written, shown or evaluated, or where, not what is learnt.
# Mesh and microbatches change the order of sums, hence results within float32 rounding.
HARMLESS = frozenset({
    "COMPILATION_CACHE_DIR", "COUNT_EXAMPLES", "KEEP_BEST", "KEEP_BEST_METRIC", "KEEP_CHECKPOINTS",
    "KEEP_EVERY_HOURS", "LOG_PERIOD", "MESH_SHAPE", "MODEL_DIR", "NUM_MICROBATCHES", "ON_NONFINITE",
    "ON_OVERLONG", "SAVE_INITIAL", "SAVE_PERIOD",
})  # fmt: skip
_HARMLESS_PREFIXES = ("EVAL_", "evaluation.")
# What the run files of the two runners bind to macros, each to its own functions.
_WIRING = (
    "loop.", "evaluation.", "optimizers.", "network.", "train_script.", "t5x_model.", "utils.", "seqio.",
)  # fmt: skip
_BINDING = re.compile(r"^([\w./@]+) =(?: (.*))?$")


@dataclasses.dataclass(frozen=True)
class Change:
    """One setting that differs.

    Attributes:
      name: macro or parameter, such as `LEARNING_RATE`.
      before: its value in the folder; None: it was not set.
      now: its value in the new configuration; None: it is not set.
    """

    name: str
    before: str | None
    now: str | None

    @property
    def harmless(self) -> bool:
        """Whether the parameters after a step do not depend on it (but for rounding)."""
        return self.name in HARMLESS or self.name.startswith(_HARMLESS_PREFIXES)

    def __str__(self) -> str:
        """Returns `NAME: before -> now`."""
        return f"{self.name}: {self.before or 'not set'} -> {self.now or 'not set'}"


class ConfigChangedError(ValueError):
    """The folder's run was configured otherwise, in a way that changes what is learnt."""


def bindings(config: str) -> dict[str, str]:
    r"""Returns name -> value, as text, of what `gin.config_str()` returned.

    >>> bindings("# Macros:\nA = 1\nB = \\\n    [1,\n     2]\n")
    {'A': '1', 'B': '[1, 2]'}
    """
    values: dict[str, str] = {}
    name = None
    for line in config.splitlines():
        match = _BINDING.match(line)
        if match:
            name = match.group(1)
            values[name] = (match.group(2) or "").removesuffix("\\").strip()
        elif name and line[:1].isspace():
            values[name] = f"{values[name]} {line.strip()}".strip()
        else:
            name = None
    return values


def between(before: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    """Returns the settings that differ, sorted by name; of configurations of different runners, what both read."""
    names = sorted(before.keys() | now.keys())
    if _is_t5x(before) != _is_t5x(now):
        names = [name for name in names if not name.startswith(_WIRING)]
    return [
        Change(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    ]


def _is_t5x(config: Mapping[str, str]) -> bool:
    return any(name.startswith("t5x_model.") for name in config)


def check(changes: Sequence[Change], step: int, allowed: bool) -> None:
    """Checks that a run of `step` steps may go on with these changes.

    Raises:
      ConfigChangedError: one of them changes what is learnt and that was not allowed; lists them all.
    """
    grave = [change for change in changes if not change.harmless]
    if grave and step and not allowed:
        raise ConfigChangedError(
            f"train: the folder holds {step} steps of another configuration: {'; '.join(map(str, grave))}. Use another "
            "MODEL_DIR, or give --allow_config_changes: the run goes on with the new values, and starts.jsonl records it"
        )
