from http.client import HTTPMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet_agent.fetch.patience import Retry, read_retry_after


def _headers(**values):
    message = HTTPMessage()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


NOON = "Sat, 21 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"Retry_After": "7"}, 7.0, id="seconds"),
        pytest.param({"Retry_After": "0"}, 0.0, id="at once"),
        pytest.param({"Retry_After": "9" * 400}, 999_999_999.0, id="for ever"),
        pytest.param({"Retry_After": "-1"}, None, id="the past"),
        pytest.param({"Retry_After": "1e9"}, None, id="not a count"),
        pytest.param({"Retry_After": "٣"}, None, id="digits of another script"),
        pytest.param(
            {"Retry_After": "Sat, 21 Nov 2026 12:00:30 GMT", "Date": NOON}, 30.0, id="a date"
        ),
        pytest.param(
            {"Retry_After": "Sat, 21 Nov 2026 11:00:00 GMT", "Date": NOON}, 0.0, id="a past date"
        ),
        pytest.param({"Retry_After": NOON}, None, id="a date against no date"),
        pytest.param({"Retry_After": "Sat, 99 Nov", "Date": NOON}, None, id="no date"),
        pytest.param(
            {"Retry_After": "Sat, 21 Nov 2026 12:00:30 -0000", "Date": NOON},
            None,
            id="a date without a zone",
        ),
    ],
)
def test_what_a_server_asks_for_is_read(headers, seconds):
    assert read_retry_after(_headers(**headers)) == seconds


@given(st.integers(1, 10_000), st.floats(0, 1), st.none() | st.floats(-10, 1e12))
def test_no_pause_is_longer_than_both_caps(attempt, jitter, asked_s):
    retry = Retry(cap_s=15.0, asked_cap_s=120.0)

    assert 0 < retry.pause_s(attempt, jitter, asked_s=asked_s) <= 135.0


def test_what_a_server_asks_for_is_waited_for_and_still_jittered():
    retry = Retry(first_s=1.0, asked_cap_s=60.0)

    assert retry.pause_s(1, 1.0, asked_s=30.0) == 31.0
    assert retry.pause_s(1, 0.0, asked_s=30.0) == 30.5
    assert retry.pause_s(1, 1.0, asked_s=3600.0) == 61.0
