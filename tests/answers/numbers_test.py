import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotdistill_jax.answers import numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 - 14 = -2, or 3/4 of 1,000", ["12", "14", "-2", "0.75", "1000"]),
        ("", []),
        ("no digits, inf, nan, Infinity, ∞", []),
        # thousands separators
        ("1,025", ["1025"]),
        ("1,000,000.50", ["1000000.5"]),
        ("1\u202f025 1\u2009025 1\u00a0025", ["1025", "1025", "1025"]),
        ("1,25", ["1", "25"]),
        ("1,0255", ["1", "255"]),
        ("1234,567", ["1234", "567"]),
        ("in 2014, 300 people", ["2014", "300"]),
        ("1，025", ["1025"]),
        ("1.000.000 -12.345.678. 1.000", ["1000000", "-12345678", "1"]),
        ("1.000.0000 1.000.000.0", ["1", "0", "1", "0"]),
        # signs
        ("-5 −5 –5 －5", ["-5", "-5", "-5", "-5"]),
        ("-$5 $-5 −€5 - 5", ["-5", "-5", "-5", "5"]),
        ("(-5) =-5 :-5 *-5", ["-5", "-5", "-5", "-5"]),
        (
            "10-5 10−5 10 - 5 x-5 (3)-5 20%-5 A--5",
            ["10", "5"] * 3 + ["5", "3", "5", "20", "5", "5"],
        ),
        ("-0 0.0 -0.00", ["0", "0", "0"]),
        # decimals
        (".5 5. 007 18.00 0.50", ["0.5", "5", "7", "18", "0.5"]),
        ("1.2.3 costs.5 $.50", ["1.2", "3", "5", "0.5"]),
        # digits of other scripts
        ("٣ １２ ५", ["3", "12", "5"]),
        # fractions and mixed numbers
        ("5/2 1/3 2/6 -1/3 -(1/3) 1/1024", ["2.5", "1/3", "1/3", "-1/3", "-1/3", "0.0009765625"]),
        ("-½ x=−½ -2½ ٣½ a½", ["-0.5", "-0.5", "-2.5", "3.5", "0.5"]),
        ("½ 2½ 2 1/2 2 and 1/2 -2 1/2", ["0.5", "2.5", "2.5", "2.5", "-2.5"]),
        ("1⁄3 1,000/3", ["1/3", "1000/3"]),
        ("10/2/5", ["10", "2", "5"]),
        ("5/0 1/2.5 12 13/4", ["5", "0", "1", "2.5", "12", "3.25"]),
        # exponents
        ("1.5e3 1E-3 2e+2", ["1500", "0.001", "200"]),
        ("1.5 x 10^3 1.5×10³ 2*10^-2 3·10⁻²", ["1500", "1500", "0.02", "0.03"]),
        ("1e999999999 1e-999999999 0e99999", ["1e999999999", "1e-999999999", "0"]),
        # times and ratios
        ("5:45 09:05 9:03:36 3:4 3∶4", ["5:45", "9:05", "9:03:36", "3:4", "3:4"]),
        ("1:1,000 -3:4", ["1:1000", "-3:4"]),
        ("A: 18, day 1: 5", ["18", "1", "5"]),
        # marks and units
        ("50% $5 £5 6th 9 (apples) 18!", ["50", "5", "5", "6", "9", "18"]),
        ("25 cm² 25 m^2. 25 ft3 25 m³ 18¹²", ["25", "25", "25", "25", "18"]),
        ("<<9*2=18>>18", ["9", "2", "18", "18"]),
        # LaTeX and typography
        (
            r"1{,}250 1\,250 1\ 250 1~250 12,\!500 1'250 1’250",
            ["1250"] * 4 + ["12500", "1250", "1250"],
        ),
        (r"$1{,}234{,}567.50$ 3\,4 1{.}5", ["1234567.5", "3", "4", "1.5"]),
        (r"\boxed{\frac{3}{4}} \dfrac34, {3 \over 4}", ["0.75"] * 3),
        (r"2\frac{1}{2}, 2 \tfrac12, -\frac{1}{2}, \frac{-1}{2}", ["2.5", "2.5", "-0.5", "-0.5"]),
        (
            r"\frac{1{,}000}{3} \frac{1.5}{2} \frac123 \frac{1}{0.0}",
            ["1000/3", "0.75", "0.5", "3", "1", "0"],
        ),
        (r"-\$5 \$-5 −\$5 -US$5 10-\$5", ["-5"] * 4 + ["10", "5"]),
        (r"1.5 \times 10^{3}, 1.5\cdot10^{-3}", ["1500", "0.0015"]),
        (r"10^{3} 10^3 10³ 2^{10} 1.5^2 2^{-1}", ["1000"] * 3 + ["1024", "2.25", "0.5"]),
        (r"25 \mathrm{cm}^{2} 25\text{ m}^2 25 inches^2 9.8 m/s^{2}", ["25", "25", "25", "9.8"]),
        (r"\sqrt{16} 3\sqrt{2} \frac{x}{2} \frac{\sqrt{3}}{2} \frac{\frac12}{3}", []),
        ("25 m$^2$ 25 m$^{2}$ 18[^1] **18** __18__", ["25", "25", "18", "18", "18"]),
        (r"10^{100} -10^{6} 3 x 10^{2}", ["1" + "0" * 100, "-1000000", "300"]),
        (r"7x_{2} 7 x^{2} 90^\circ 50\% \left(3\right)", ["7", "7", "90", "50", "3"]),
    ],
)
def test_find_numbers(text, expected):
    assert numbers.find_numbers(text) == expected


def test_long_numbers_are_exact():
    digits = "1234567890" * 40
    assert numbers.find_numbers(digits) == [digits]
    assert numbers.find_numbers("9" * 5000 + " " + "9" * 4999 + "8") == [
        "9" * 5000,
        "9" * 4999 + "8",
    ]
    assert numbers.find_numbers("1e400") == ["1" + "0" * 400]
    assert numbers.find_numbers("1/" + "3" * 900) == ["1", "3" * 900]


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "1,",
        "1/",
        "1:",
        "1 ",
        "1e",
        "1,111",
        "1 and ",
        "10^",
        "-",
        "½",
        "²",
        ".",
        r"\frac{1",
        "1{,}",
        "1~",
        r"{1\over",
        "2^3",
        r"\sqrt{1",
        r"\frac{",
    ],
)
def test_a_long_hostile_text_takes_linear_time(unit):
    start = time.process_time()
    found = numbers.find_numbers(unit * (50_000 // len(unit)))
    assert time.process_time() - start < 3.0
    assert (len(found) > 0) == any(char.isnumeric() and char != "²" for char in unit)


integers = st.integers(min_value=-(10**40), max_value=10**40)


@given(integers)
def test_an_integer_in_any_dress_is_itself(number):
    dresses = [
        f"{number}",
        f"{number:,}",
        f"{number}.00",
        f"x = {number};",
        f"({number})",
        f"{number}e0",
    ]
    dresses += [f"${number}".replace("$-", "-$"), f"{number}%", str(number).replace("-", "\u2212")]
    assert {tuple(numbers.find_numbers(dress)) for dress in dresses} == {(str(number),)}


@given(st.decimals(allow_nan=False, allow_infinity=False), st.decimals(-100, 100, places=2))
def test_decimals_are_equal_as_text_exactly_when_equal_as_numbers(left, right):
    for other in (left, right, -left, left.normalize(), left.next_plus()):
        same = numbers.find_numbers(str(left)) == numbers.find_numbers(str(other))
        assert same == (left == other)


@given(*[st.integers(1, 999)] * 4)
def test_fractions_are_equal_as_text_exactly_when_equal_as_numbers(a, b, c, d):
    same = numbers.find_numbers(f"{a}/{b}") == numbers.find_numbers(f"{c}/{d}")
    assert same == (Fraction(a, b) == Fraction(c, d))
    assert numbers.find_numbers(f"{a * c}/{b * c}") == numbers.find_numbers(f"{a}/{b}")


@given(st.integers(1, 99), st.integers(1, 99), st.integers(2, 99))
def test_mixed_numbers_equal_their_improper_fraction(whole, numerator, denominator):
    if numerator < denominator:
        improper = numbers.find_numbers(f"{whole * denominator + numerator}/{denominator}")
        assert numbers.find_numbers(f"{whole} {numerator}/{denominator}") == improper


@given(
    st.text(alphabet=st.one_of(st.sampled_from("0123456789.,-/:$%()eE^½²−٣x× \n"), st.characters()))
)
def test_any_text_reads_to_canonical_numbers(text):
    for value in numbers.find_numbers(text):
        assert numbers.find_numbers(value) == [value]
        assert numbers.find_numbers(f"The answer is {value}.") == [value]
