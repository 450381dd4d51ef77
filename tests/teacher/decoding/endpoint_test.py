import pytest

pytest.importorskip("openai", reason="teacher.decoding needs the extra `teacher`")

from cotdistill_jax.teacher.decoding import endpoint


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(value, seconds):
    assert endpoint.retry_after_seconds(value, now=50.0) == seconds
