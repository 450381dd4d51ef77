r"""LaTeX in an answer to the plain text that it shows, as far as numbers are concerned.

| written | read as |
|---|---|
| `1{,}250` `1,\!250` `1\,250` `1~250` | `1,250`, or with a thin space for the comma |
| `\frac{3}{4}` `\dfrac34` `{3 \over 4}` `2\tfrac{1}{2}` `\frac{1.5}{2}` | `3/4`, `3/4`, `3/4`, `2 1/2`, `15/20` |
| `1.5 \times 10^{3}` `1.5\cdot10^3` | `1.5 × 10^3` |
| `\$5` `50\%` `\boxed{5}` `25 \text{ m}^{2}` `90^\circ` `6^{\text{th}}` | `$5`, `50%`, ` 5`, `25 m^2`, `90`, `6th` |
| `x_{2}` `\sqrt{16}` `\frac{\pi}{4}` | nothing: their digits are no numbers of their own |
"""

import re

_THIN_SPACE = "\u2009"
_SPACED_DIGITS = re.compile(r"(?<=[0-9])(?:\\[,;:> ]|~|\\thinspace\s?)(?=[0-9])")
_SIMPLE = {
    "{,}": ",",
    "{.}": ".",
    "\\!": "",
    "\\$": "$",
    "\\%": "%",
    "\\&": "&",
    "\\#": "#",
    "\\_": "_",
}
_OVER = re.compile(r"\{\s*(-?[0-9.,]+)\s*\\over\s*(-?[0-9.,]+)\s*\}")
_PART = r"(?:\{([^{}]*)\}|\s*([0-9]))"
_FRACTION = re.compile(rf"(?P<digit>[0-9]\s*)?\\[dtc]?frac\s*{_PART}\s*{_PART}")
_WHOLE_PART = re.compile(r"\s*(-?)\s*([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.([0-9]+))?\s*")
_SIGNS = re.compile(r"\\(times|cdot|div)(?![A-Za-z])")
_SIGN_CHARS = {"times": "×", "cdot": "·", "div": "÷"}
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_EXPONENT = re.compile(r"\^\s*\{\s*([+\-−]?[0-9]+)\s*\}")
_ORDINAL = re.compile(
    r"\^\s*\{?\s*\\(?:text|mathrm|textrm)\{\s*(st|nd|rd|th)\s*\}\s*\}?|\^\{(st|nd|rd|th)\}"
)
_ROOT = re.compile(r"(?:[0-9][0-9.,]{0,100}\s?)?\\sqrt\s*(?:\[[^\[\]]*\])?\s*(?:\{[^{}]*\}|[0-9])")
_SUBSCRIPT = re.compile(r"_\s*\{[^{}]*\}|(?<![A-Za-z0-9_][A-Za-z])(?<=[A-Za-z])_[0-9]+")
# A power of a unit in dollar signs of its own, a footnote of Markdown.
_DOLLARED_POWER = re.compile(r"(?<=[A-Za-z])\$\^\{?[0-9]{1,9}\}?\$|\[\^[0-9]{1,9}\]")
_SPECIAL = re.compile(r"[\\{}~]|\^[0-9]{1,9}[\]$]|[A-Za-z]_[0-9]")
_MOST_NESTED_FRACTIONS = 4
_COMMAND = re.compile(r"\\(?:[A-Za-z]+\*?|[(){}\[\],;:> ])")


def to_plain(text: str) -> str:
    r"""Returns the text without LaTeX: `to_plain(r"\boxed{\frac{3}{4}}")` is `" 3/4"`. Text without `\`, `{`, `~` or `x_1` is unchanged."""
    if not _SPECIAL.search(text):
        return text
    text = _DOLLARED_POWER.sub(" ", text)
    text = _SPACED_DIGITS.sub(_THIN_SPACE, text)
    for written, plain in _SIMPLE.items():
        text = text.replace(written, plain)
    text = _ORDINAL.sub(lambda match: match[1] or match[2], text)
    text = _DEGREES.sub(" ", text)
    text = _EXPONENT.sub(r"^\1", text)
    text = _SUBSCRIPT.sub("", text)
    text = _OVER.sub(r"\\frac{\1}{\2}", text)
    text = _ROOT.sub(" ", text)
    for _ in range(_MOST_NESTED_FRACTIONS):
        text, found = _FRACTION.subn(_fraction, text)
        if not found:
            break
    text = _SIGNS.sub(lambda match: _SIGN_CHARS[match[1]], text)
    text = _COMMAND.sub(" ", text)
    return text.replace("}{", " ").replace("{", "").replace("}", "")


def _fraction(match: re.Match[str]) -> str:
    """Returns a fraction of two numbers as `3/4`, after a space where digits stand before it; nothing for another one."""
    before = match["digit"] or ""
    parts = [
        _WHOLE_PART.fullmatch(one or other or "")
        for one, other in ((match[2], match[3]), (match[4], match[5]))
    ]
    if not (parts[0] and parts[1]):
        return before + " "
    places = max(len(part[3] or "") for part in parts if part)
    if not (parts[1][2] + (parts[1][3] or "")).strip("0,"):
        return f"{before} {parts[0][0].strip()} {parts[1][0].strip()} "
    numerator, denominator = (
        part[2].replace(",", "") + (part[3] or "").ljust(places, "0") for part in parts if part
    )
    negative = parts[0][1] != parts[1][1]
    space = " " if before.strip() else ""
    after = " " if match.string[match.end() : match.end() + 1].isdigit() else ""
    return f"{before.rstrip()}{space}{'-' if negative else ''}{numerator}/{denominator}{after}"
