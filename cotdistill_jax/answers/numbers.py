"""Numbers in free text, read exactly and written in one canonical form.

Two numbers are equal exactly when their canonical forms are the same string, so no comparison ever goes
through floating point: `1,025.50`, `$1025.5` and `2051/2` all become `1025.5`, `1e400` stays different
from `1e401`, and `1/3` is neither `0.3333` nor equal to it. What is read:

| written | read as |
|---|---|
| `1,025` `1 025` (no-break or thin space) `1'025` | 1025; `1,25` is two numbers |
| `1.000.000` | 1000000, as it can be nothing else; `1.000` is 1 |
| `-5` `−5` `-$5` `-US$5` `$-5` `-(1/3)` | negative; in `10-5` the hyphen subtracts, in `- 5` it is a dash |
| `.5` `5.` `007` `٣` `１２` | 0.5, 5, 7, 3, 12 |
| `1/2` `½` `2 1/2` `2½` `2 and 1/2` | 0.5 and 2.5; `10/2/5` and `5/0` are separate numbers |
| `1.5e3` `1.5 x 10^3` `1.5×10³` `10^3` `10³` `2^10` | 1500, 1000, 1024 |
| `5:45` `3:4` | times and ratios: one value, compared part by part |
| `50%` `$5` `6th` `9 (apples)` `25 cm²` `25 m^2` | 50, 5, 6, 9, 25, 25: marks and units are dropped |
| `x^2` `m/s^2` `(a+b)^2` | no numbers |
| LaTeX | what it shows, see `answers.latex` |

Infinities and "nan" are words, not numbers.
"""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

from cotdistill_jax.answers.latex import to_plain

# Comma, no-break space, thin space, narrow no-break space, and the apostrophe as in Switzerland.
_SEPARATORS = ",'’\u00a0\u2009\u202f"
_UNSIGNED = rf"(?:[0-9]{{1,3}}(?:[{_SEPARATORS}][0-9]{{3}})++(?![0-9])|[0-9]++)"
_NUMBER = re.compile(
    rf"""
    (?:(?<![^\W_])(?<![)\]}}%-])(?P<sign>-)(?:\(|(?:US|CA|AU|HK|NZ)?[$€£¥₹]\ ?)?)?   # after a word or a bracket it is no sign
    (?:
        (?P<base>(?:{_UNSIGNED})(?:\.[0-9]++)?)\^(?P<power>[+-]?[0-9]{{1,9}})(?![\w^])
      |
        (?P<ratio>{_UNSIGNED}(?::{_UNSIGNED})++)
      | (?:(?P<whole>{_UNSIGNED})\ (?:and\ )?)?
        (?<!/)(?P<numerator>{_UNSIGNED})/(?P<denominator>{_UNSIGNED})(?![./]?[0-9])
      | (?P<dotted>[0-9]{{1,3}}(?:\.[0-9]{{3}}){{2,}})(?!\.?[0-9])
      | (?P<coefficient>{_UNSIGNED}(?:\.[0-9]++)?|(?<![\w.])\.[0-9]++)
        (?:(?:[eE]|\ ?[x×*·]\ ?10\^)(?P<exponent>[+-]?[0-9]{{1,9}})(?!\w))?
    )
    """,
    re.VERBOSE,
)
_MIXED = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅟↉])")
_UNIT_POWER = re.compile(
    r"(?<![A-Za-z])(mm|cm|dm|m|km|in|ft|yd|mi)[23](?!\w)|(?<=[A-Za-z)])\ ?\^\(?-?[0-9]++\)?"
)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SUPERSCRIPT_RUN = re.compile(rf"(?P<times_ten>(?<![0-9.,])10)?(?P<run>⁻?[{_SUPERSCRIPTS}]++)")
_FROM_SUPERSCRIPT = str.maketrans(_SUPERSCRIPTS + "⁻", "0123456789-")
_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("−‐‑‒–﹣－", "-"),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("，٬", ","),
        **dict.fromkeys("．٫", "."),
        **dict.fromkeys("：∶", ":"),
    }
)
# Longer parts are left apart instead of divided: Python converts at most 4,300 digits at a time.
_MAX_FRACTION_DIGITS = 800
# Beyond this many places a number keeps its exponent instead of being written out.
_MAX_PLACES = 5_000


def find_numbers(text: str) -> list[str]:
    """Returns the canonical form of every number in a text, in reading order.

    Example: `"12 - 14 = -2, or 3/4 of 1,000"` gives `["12", "14", "-2", "0.75", "1000"]`.
    """
    return [value for match in _NUMBER.finditer(_plain(text)) for value in _values(match)]


def _plain(text: str) -> str:
    """Returns the text with ASCII digits, signs and fractions, and without LaTeX and powers of units."""
    text = to_plain(text)
    if not text.isascii():
        text = _SUPERSCRIPT_RUN.sub(_power_of_ten, text.translate(_PUNCTUATION))
        text = _MIXED.sub(" ", text)
        text = "".join(char if char.isascii() else _ascii(char) for char in text)
    return _UNIT_POWER.sub(lambda match: match[1] or "", text)


def _power_of_ten(match: re.Match[str]) -> str:
    """Returns `10³` as `10^3`; other superscripts (`cm²`, footnotes) are no numbers and vanish."""
    if not match["times_ten"]:
        return ""
    return match["times_ten"] + "^" + match["run"].translate(_FROM_SUPERSCRIPT)


def _ascii(char: str) -> str:
    """Returns a decimal digit of any script as ASCII, `½` as `1/2`, and other characters unchanged."""
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    if unicodedata.decomposition(char).startswith("<fraction>"):
        return unicodedata.normalize("NFKC", char).replace("⁄", "/")
    return char


def _values(match: re.Match[str]) -> Iterator[str]:
    """Yields the number of one match, or its parts where they make no fraction."""
    sign = match["sign"] or ""
    if match["base"]:
        yield _power_text(sign, _digits(match["base"]), int(match["power"]))
    elif match["ratio"]:
        first, *others = _digits(match["ratio"]).split(":")
        yield ":".join([sign + (first.lstrip("0") or "0"), *others])
    elif match["denominator"]:
        yield from _fraction_values(
            sign, match["whole"] or "", match["numerator"], match["denominator"]
        )
    elif match["dotted"]:
        yield _decimal_text(sign, match["dotted"].replace(".", ""), 0)
    else:
        yield _decimal_text(sign, match["coefficient"], int(match["exponent"] or 0))


def _fraction_values(sign: str, whole: str, numerator: str, denominator: str) -> Iterator[str]:
    """Yields one fraction or mixed number; its parts where the division makes no sense."""
    parts = [_digits(part) for part in (whole or "0", numerator, denominator)]
    if parts[2].strip("0") == "" or max(map(len, parts)) > _MAX_FRACTION_DIGITS:
        for place, part in enumerate(filter(None, (whole, numerator, denominator))):
            yield _decimal_text("" if place else sign, part, 0)
        return
    units, fraction = int(parts[0]), Fraction(int(parts[1]), int(parts[2]))
    if whole and fraction >= 1:
        yield _decimal_text(sign, whole, 0)
        yield _fraction_text("", fraction)
    else:
        yield _fraction_text(sign, units + fraction)


def _power_text(sign: str, base: str, power: int) -> str:
    """Returns a power as a number; as it is written where that is too long, or is none (0 to a power below 0)."""
    if base == "10":
        return _decimal_text(sign, "1", power)
    is_zero = not base.strip("0.")
    if len(base) * max(1, abs(power)) > _MAX_FRACTION_DIGITS or (power < 0 and is_zero):
        return f"{sign}{base}^{power}"
    return _fraction_text(sign, Fraction(base) ** power)


def _fraction_text(sign: str, value: Fraction) -> str:
    """Returns a fraction as a decimal where that ends (`5/2` -> `2.5`), else in lowest terms (`1/3`)."""
    odd_part = value.denominator >> _power_of(2, value.denominator)
    fives = _power_of(5, odd_part)
    if odd_part != 5**fives:
        return f"{sign}{value.numerator}/{value.denominator}"
    places = max(_power_of(2, value.denominator), fives)
    return _decimal_text(sign, str(value.numerator * 10**places // value.denominator), -places)


def _power_of(prime: int, number: int) -> int:
    """Returns how many times `prime` divides `number`: `_power_of(2, 12) == 2`."""
    power = 0
    while number % prime == 0:
        number, power = number // prime, power + 1
    return power


def _digits(number: str) -> str:
    return re.sub(f"[{_SEPARATORS}]", "", number)


def _decimal_text(sign: str, coefficient: str, exponent: int) -> str:
    """Returns sign, coefficient times 10**exponent without useless zeros, signs or separators."""
    units, _, decimals = _digits(coefficient).partition(".")
    exponent -= len(decimals)
    digits = (units + decimals).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return "0"
    exponent += len(digits) - len(significant)
    if max(exponent, -exponent) > _MAX_PLACES:
        return f"{sign}{significant}e{exponent}"
    if exponent >= 0:
        return sign + significant + "0" * exponent
    padded = significant.rjust(1 - exponent, "0")
    return f"{sign}{padded[:exponent]}.{padded[exponent:]}"
