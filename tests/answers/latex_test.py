import time

import hypothesis
import pytest
from hypothesis import strategies as st

from cotdistill_jax import answers
from cotdistill_jax.answers.numbers import find_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (r"3{,}750 3,\!750 3\,750 3\;750 3~750 3'750 3’750", ["3750"] * 7),
        (r"\frac{5}{8} \dfrac58 \tfrac{5}8 {5 \over 8}", ["0.625"] * 4),
        (r"4\frac{1}{2} $4 \frac12$ -4\frac{1}{2}", ["4.5", "4.5", "-4.5"]),
        (r"-\frac{1}{4} \frac{-1}{4} \frac{1}{-4} \frac{-1}{-4}", ["-0.25"] * 3 + ["0.25"]),
        (r"\frac{2{,}000}{3} \frac{2.5}{5}", ["2000/3", "0.5"]),
        (r"-\$7 $-7 \$-7 −\$7 -€7 -US$7 **-7** __-7__ \boxed{-7}", ["-7"] * 9),
        (r"12-\$5, 12-$5", ["12", "5", "12", "5"]),
        (r"2.5 \times 10^{4} 2.5\cdot10^4 2.5×10⁴ 2.5e4 2.5E+4 2.5 x 10^4", ["25000"] * 6),
        (r"2.5 \times 10^{-2} 2.5×10⁻²", ["0.025"] * 2),
        (r"10^{4} 10^4 10⁴ 10^{-2} 2^{10} 1.5^2", ["10000"] * 3 + ["0.01", "1024", "2.25"]),
        (r"9 m^2 9 \text{ m}^2 9 \mathrm{km}^{3} 9 ft² 9 m/s^2 9 cm3", ["9"] * 6),
        (r"60\% 60^\circ 60^{\circ} 6^{\text{th}} 6^{th}", ["60", "60", "60", "6", "6"]),
        (r"\(18\) \[18\] $18$ \text{18 eggs} \left(18\right)", ["18"] * 5),
        (r"\$2{,}025.50", ["2025.5"]),
    ],
)
def test_latex_and_typography_show_these_numbers(text, numbers):
    assert find_numbers(text) == numbers


@pytest.mark.parametrize(
    "text",
    [
        r"\frac{\pi}{4}",
        r"\sqrt{16}",
        r"\sqrt[3]{8}",
        "x_{2}",
        "x_2",
        "x^2",
        "m^{2}",
        "(a+b)^2",
        r"\frac{x}{2}",
    ],
)
def test_digits_that_are_no_numbers_of_their_own_are_none(text):
    assert find_numbers(text) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (r"The answer is \frac{3}{4}.", "4"),
        (r"The answer is \frac{3}{4}.", "3"),
        (r"The answer is \frac{\frac{1}{2}}{3}.", "3"),
        (r"The answer is 1{,}250.", "250"),
        (r"The answer is 10^{3}.", "3"),
        (r"The answer is 10^{3}.", "10"),
        (r"The answer is 25 m^{2}.", "2"),
        (r"The answer is 7 x_{2}.", "2"),
        ("The answer is 1,25.", "125"),
        (r"The answer is -\$5.", "5"),
        (r"The answer is 1.5 \times 10^{3}.", "1.5"),
    ],
)
def test_no_part_of_a_number_counts_as_the_answer(text, wrong):
    assert not answers.is_correct(text, wrong, "last_number")
    assert not answers.is_correct(text, wrong, "answer_is")


@hypothesis.given(value=st.integers(1_000, 10**9), negative=st.booleans())
def test_a_number_is_the_same_in_every_notation_of_its_thousands(value, negative):
    sign = "-" if negative else ""
    grouped = f"{value:,}"
    for mark in ("", ",", "{,}", r"\,", r",\!", "~", "’", "\u2009"):
        written = grouped.replace(",", mark)
        for form in ("{}", "${}$", r"\boxed{{{}}}", r"\text{{{} eggs}}", "**{}**"):
            assert find_numbers(form.format(sign + written)) == [sign + str(value)]


@pytest.mark.parametrize(
    "piece",
    [r"\frac{", "{", "1'", "10^", "\\", r"\frac{1}{", "a_{", r"\text{", "^{ ", r"\sqrt[", "9"],
)
def test_reading_takes_time_in_proportion_to_the_text(piece):
    # A quadratic pattern takes minutes on this text, a linear one a tenth of a second.
    began = time.process_time()
    find_numbers(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 5.0
