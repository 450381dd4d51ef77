"""The embedded benchmark: generated multi-step word problems, so that a first run needs no download.

A problem is a template (`TEMPLATES`), a name, a friend, a kind of item and a few small numbers; about one in five
carries a distractor, a sentence whose number does not matter. The rationale lines of a template *are* its arithmetic:
`{a} * {b} = {x}` says both what the solver writes and how `x` is computed, so that text and answer cannot disagree.

Splits never share a (template, numbers) pair: a hash of the pair decides the split. A model that is right on `test`
therefore never saw that calculation in that situation, whatever the names.

    >>> problem = load("train", num_examples=1)[0]
    >>> problem.id
    'arith/train/0'

Source: ours; the shape follows GSM8K (question, line-by-line rationale, final number).
"""

import dataclasses
import hashlib
import operator
import random
import re
from collections.abc import Iterator

from cotdistill_jax.benchmarks.question import Question

SPLIT_SIZES = {"train": 40_000, "validation": 200, "test": 200}
SEED = 0
MAX_RESULT = 99
DISTRACTOR_RATE = 0.2

_HASH_BUCKETS = 40  # one bucket each for validation and test, the other 38 for train
_OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda left, right: left // right if left % right == 0 else None,
}
_STEP = re.compile(r"(\{\w+\}|\d+) ([-+*/]) (\{\w+\}|\d+) = \{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Template:
    """One kind of problem.

    Attributes:
      name: unique name, part of the split hash.
      question: text with `{name}`, `{friend}`, `{item}` and one slot per number.
      numbers: per slot the smallest and the largest value drawn, both included.
      lines: rationale lines, each with exactly one `left op right = {result}`; the last result is the answer.
      other_lines: another way to the same answer, in the same form; empty where there is no natural one.
    """

    name: str
    question: str
    numbers: dict[str, tuple[int, int]]
    lines: tuple[str, ...]
    other_lines: tuple[str, ...] = ()

    def solve(
        self, numbers: dict[str, int], lines: tuple[str, ...] | None = None
    ) -> dict[str, int] | None:
        """Returns `numbers` plus every result that `lines` compute, or None where one is not in 1..`MAX_RESULT`.

        Args:
          numbers: value of every slot.
          lines: `self.lines` if not given.
        """
        values = dict(numbers)
        for line in self.lines if lines is None else lines:
            left, symbol, right, result = _STEP.findall(line)[0]
            operands = (int(o) if o.isdigit() else values[o[1:-1]] for o in (left, right))
            value = _OPERATIONS[symbol](*operands)
            if value is None or not 1 <= value <= MAX_RESULT:
                return None
            values[result] = value
        return values


NAMES = (
    *("Ana", "Ben", "Cara", "Dan", "Ella", "Finn", "Gina", "Hugo", "Ivy", "Jack", "Kim", "Leo"),
    *("Mia", "Ned", "Olga", "Paul", "Rosa", "Sam", "Tina", "Umar", "Vera", "Will", "Yara", "Zoe"),
)
ITEMS = (
    *("apples", "books", "cards", "cookies", "eggs", "flowers"),
    *("marbles", "pencils", "shells", "stamps", "stickers", "toys"),
)
DISTRACTORS = (
    "{name} is {d} years old.",
    "The shop is {d} km away.",
    "It is {d} degrees outside.",
    "{friend} has {d} cousins.",
    "{name} woke up {d} minutes late.",
    "The bus has {d} seats.",
)

TEMPLATES = (
    Template(
        "boxes_give",
        "{name} buys {a} boxes of {b} {item} and gives away {c}. How many {item} are left?",
        {"a": (2, 9), "b": (2, 9), "c": (1, 20)},
        ("Bought: {a} * {b} = {x}.", "Left: {x} - {c} = {y}."),
    ),
    Template(
        "bags_find",
        "{name} finds {a} bags of {b} {item} and had {c} before. How many {item} are there now?",
        {"a": (2, 9), "b": (2, 9), "c": (1, 20)},
        ("Found: {a} * {b} = {x}.", "Now: {x} + {c} = {y}."),
    ),
    Template(
        "friend_more",
        "{name} has {a} {item}. {friend} has {b} more. How many do they have together?",
        {"a": (3, 30), "b": (2, 20)},
        ("Second: {a} + {b} = {x}.", "Together: {x} + {a} = {y}."),
        ("Twice: {a} * 2 = {x}.", "Together: {x} + {b} = {y}."),
    ),
    Template(
        "friend_times",
        "{name} has {a} {item}. {friend} has {b} times as many. How many do they have together?",
        {"a": (2, 9), "b": (2, 9)},
        ("Second: {a} * {b} = {x}.", "Together: {x} + {a} = {y}."),
        ("Parts: {b} + 1 = {x}.", "Together: {a} * {x} = {y}."),
    ),
    Template(
        "spend_two",
        "A hat costs {a} dollars and a scarf {b}. {name} pays for both with {c} dollars. How many dollars come back?",
        {"a": (3, 15), "b": (3, 15), "c": (30, 99)},
        ("Both: {a} + {b} = {x}.", "Back: {c} - {x} = {y}."),
        ("Left: {c} - {a} = {x}.", "Back: {x} - {b} = {y}."),
    ),
    Template(
        "earn_hours",
        "{name} earns {a} dollars an hour for {b} hours and spends {c}. How many dollars are left?",
        {"a": (2, 9), "b": (2, 9), "c": (1, 20)},
        ("Earned: {a} * {b} = {x}.", "Left: {x} - {c} = {y}."),
    ),
    Template(
        "share_after_gift",
        "{name} has {a} {item} and gets {b} more. {c} children share them. How many does each get?",
        {"a": (4, 40), "b": (2, 20), "c": (2, 9)},
        ("All: {a} + {b} = {x}.", "Each: {x} / {c} = {y}."),
    ),
    Template(
        "share_after_loss",
        "{name} has {a} {item} and loses {b}. The rest fill {c} equal piles. How many are in each?",
        {"a": (8, 80), "b": (2, 20), "c": (2, 9)},
        ("Rest: {a} - {b} = {x}.", "Each: {x} / {c} = {y}."),
    ),
    Template(
        "rows_broken",
        "A hall has {a} rows of {b} chairs. {c} are broken. How many can be used?",
        {"a": (3, 9), "b": (3, 9), "c": (1, 20)},
        ("All: {a} * {b} = {x}.", "Used: {x} - {c} = {y}."),
    ),
    Template(
        "two_days",
        "{name} walks {a} km on Monday and {b} km more on Tuesday. How many km on both days?",
        {"a": (2, 30), "b": (1, 20)},
        ("Tuesday: {a} + {b} = {x}.", "Both: {x} + {a} = {y}."),
        ("Twice: {a} * 2 = {x}.", "Both: {x} + {b} = {y}."),
    ),
    Template(
        "bus",
        "A bus has {a} riders. {b} get off and {c} get on. How many riders are there now?",
        {"a": (20, 60), "b": (2, 19), "c": (2, 20)},
        ("Rest: {a} - {b} = {x}.", "Now: {x} + {c} = {y}."),
        ("All: {a} + {c} = {x}.", "Now: {x} - {b} = {y}."),
    ),
    Template(
        "read_days",
        "{name} reads {a} pages a day for {b} days of a book of {c}. How many pages are left?",
        {"a": (2, 9), "b": (2, 9), "c": (40, 99)},
        ("Read: {a} * {b} = {x}.", "Left: {c} - {x} = {y}."),
    ),
    Template(
        "half_gift",
        "{name} has {a} {item}, gives half to {friend} and buys {b}. How many {item} are there now?",
        {"a": (4, 80), "b": (2, 20)},
        ("Half: {a} / 2 = {x}.", "Now: {x} + {b} = {y}."),
    ),
    Template(
        "tickets",
        "{name} buys {a} tickets for {b} dollars each and pays with {c}. How many dollars come back?",
        {"a": (2, 9), "b": (2, 9), "c": (20, 99)},
        ("Cost: {a} * {b} = {x}.", "Back: {c} - {x} = {y}."),
    ),
    Template(
        "garden",
        "A garden has {a} rows of {b} trees and {c} rows of {e}. How many trees are there?",
        {"a": (2, 9), "b": (2, 9), "c": (2, 5), "e": (2, 5)},
        ("First: {a} * {b} = {x}.", "Second: {c} * {e} = {y}.", "All: {x} + {y} = {z}."),
        ("First: {c} * {e} = {x}.", "Second: {a} * {b} = {y}.", "All: {x} + {y} = {z}."),
    ),
    Template(
        "boxes_compare",
        "{name} packs {a} boxes of {b} {item}, {friend} packs {c} boxes of {e}. How many more does {name} pack?",
        {"a": (3, 9), "b": (4, 9), "c": (2, 5), "e": (2, 5)},
        ("First: {a} * {b} = {x}.", "Second: {c} * {e} = {y}.", "More: {x} - {y} = {z}."),
    ),
    Template(
        "bake_sell",
        "{name} bakes {a} cakes, eats {b}, sells the rest for {c} dollars each and pays {e} for flour. How many dollars are left?",
        {"a": (5, 12), "b": (1, 5), "c": (2, 9), "e": (1, 20)},
        ("Rest: {a} - {b} = {x}.", "Earned: {x} * {c} = {y}.", "Left: {y} - {e} = {z}."),
    ),
    Template(
        "twice_fewer",
        "{name} has {a} {item}. {friend} has {b} fewer and Tom twice as many as {friend}. How many more does Tom have than {name}?",
        {"a": (10, 40), "b": (2, 20)},
        ("Second: {a} - {b} = {x}.", "Tom: {x} * 2 = {y}.", "More: {y} - {a} = {z}."),
        ("Twice: {b} * 2 = {x}.", "More: {a} - {x} = {y}."),
    ),
    Template(
        "hens",
        "A farm has {a} hens that lay {b} eggs each. {c} break and the rest fill boxes of {e}. How many boxes are filled?",
        {"a": (3, 9), "b": (2, 9), "c": (1, 20), "e": (2, 9)},
        ("All: {a} * {b} = {x}.", "Rest: {x} - {c} = {y}.", "Boxes: {y} / {e} = {z}."),
    ),
    Template(
        "tank",
        "{a} liters a minute run for {b} minutes into a tank with {c} liters and then {e} leak out. How many liters are left?",
        {"a": (2, 9), "b": (2, 9), "c": (5, 20), "e": (1, 20)},
        ("Added: {a} * {b} = {x}.", "All: {x} + {c} = {y}.", "Left: {y} - {e} = {z}."),
        ("Added: {a} * {b} = {x}.", "Rest: {x} - {e} = {y}.", "All: {y} + {c} = {z}."),
    ),
    Template(
        "save_weeks",
        "{name} saves {a} dollars a week for {b} weeks. {friend} saves {c} less in all. How many dollars do they have together?",
        {"a": (3, 9), "b": (3, 9), "c": (1, 8)},
        ("First: {a} * {b} = {x}.", "Second: {x} - {c} = {y}.", "Together: {x} + {y} = {z}."),
        ("First: {a} * {b} = {x}.", "Twice: {x} * 2 = {y}.", "Together: {y} - {c} = {z}."),
    ),
    Template(
        "school",
        "A school has {a} classes of {b}. {c} are ill and {e} guests come. How many are there now?",
        {"a": (3, 9), "b": (5, 9), "c": (1, 14), "e": (2, 20)},
        ("All: {a} * {b} = {x}.", "Rest: {x} - {c} = {y}.", "Now: {y} + {e} = {z}."),
        ("All: {a} * {b} = {x}.", "More: {x} + {e} = {y}.", "Now: {y} - {c} = {z}."),
    ),
    Template(
        "points",
        "A team scores {a} points, then {b} more than that and then {c}. How many points are there in all?",
        {"a": (3, 20), "b": (1, 20), "c": (2, 20)},
        ("Second: {a} + {b} = {x}.", "Both: {a} + {x} = {y}.", "All: {y} + {c} = {z}."),
        ("Twice: {a} * 2 = {x}.", "Both: {x} + {b} = {y}.", "All: {y} + {c} = {z}."),
    ),
    Template(
        "juice",
        "{name} buys {a} packs of {b} juices. {c} are drunk and {e} friends share the rest. How many does each get?",
        {"a": (3, 9), "b": (3, 9), "c": (1, 12), "e": (2, 9)},
        ("Bought: {a} * {b} = {x}.", "Rest: {x} - {c} = {y}.", "Each: {y} / {e} = {z}."),
    ),
)


def load(split: str, num_examples: int | None = None, seed: int = SEED) -> list[Question]:
    """Returns the first `num_examples` problems of a split; the same arguments give the same problems.

    Args:
      split: `train`, `validation` or `test`.
      num_examples: how many, at least 1; None for the split's own size (`SPLIT_SIZES`). A smaller number gives a prefix.
      seed: seed of names, numbers and templates.

    Raises:
      KeyError: unknown split; the message lists the splits.
    """
    return [question for question, _ in _problems(split, num_examples, seed)]


def other_rationales(
    split: str, num_examples: int | None = None, seed: int = SEED
) -> list[str | None]:
    """Returns, problem by problem as in `load`, another way to its answer; None where there is none."""
    return [other for _, other in _problems(split, num_examples, seed)]


def num_steps(question: Question) -> int:
    """Returns how many calculations the gold rationale makes: 2 or 3."""
    return len((question.rationale or "").splitlines())


def _problems(
    split: str, num_examples: int | None, seed: int
) -> Iterator[tuple[Question, str | None]]:
    """Yields the distinct problems of a split, each with its other rationale; arguments as in `load`."""
    if split not in SPLIT_SIZES:
        raise KeyError(f"arith: unknown split {split!r}; expected one of {sorted(SPLIT_SIZES)}")
    wanted = SPLIT_SIZES[split] if num_examples is None else num_examples
    seen: set[str] = set()
    for text, rationale, answer, other in _draw(split, seed):
        if len(seen) == wanted:
            return
        if text not in seen:
            id_ = f"arith/{split}/{len(seen)}"
            seen.add(text)
            yield Question(id_, "arith", text, str(answer), rationale), other


def _draw(split: str, seed: int) -> Iterator[tuple[str, str, int, str | None]]:
    """Yields (question, rationale, answer, other rationale) of a split without end; a question may repeat."""
    rng = random.Random(f"arith/{seed}/{split}")
    while True:
        template = rng.choice(TEMPLATES)
        numbers = {slot: rng.randint(*bounds) for slot, bounds in template.numbers.items()}
        values = template.solve(numbers)
        if values is None or _split_of(template.name, numbers) != split:
            continue
        name, friend = rng.sample(NAMES, 2)
        words = {"name": name, "friend": friend, "item": rng.choice(ITEMS)}
        text = template.question.format(**values, **words)
        if rng.random() < DISTRACTOR_RATE:
            text = _with_distractor(text, rng, words)
        rationale = "\n".join(line.format(**values, **words) for line in template.lines)
        other = template.other_lines and template.solve(numbers, template.other_lines)
        other_rationale = (
            "\n".join(line.format(**other) for line in template.other_lines) if other else None
        )
        yield text, rationale, values[_STEP.findall(template.lines[-1])[0][3]], other_rationale


def _with_distractor(text: str, rng: random.Random, words: dict[str, str]) -> str:
    """Returns `text` with an irrelevant sentence in front of one of its sentences."""
    sentences = text.split(". ")
    place = rng.randrange(len(sentences))
    distractor = rng.choice(DISTRACTORS).format(d=rng.randint(2, 40), **words)
    sentences.insert(place, distractor.removesuffix("."))
    return ". ".join(sentences)


def _split_of(template: str, numbers: dict[str, int]) -> str:
    """Returns the split that owns this calculation."""
    key = f"{template}:{sorted(numbers.items())}".encode()
    bucket = int.from_bytes(hashlib.sha256(key).digest()[:4], "big") % _HASH_BUCKETS
    return {0: "test", 1: "validation"}.get(bucket, "train")
