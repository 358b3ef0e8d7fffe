"""Errors: the exit code of each, and no password in any message."""

from __future__ import annotations

import signal
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2i_runtime import errors
from i2i_runtime.errors import I2IError, Interrupted, reason
from i2i_runtime.redaction import redact


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.UsageError("x"), 2),
        (errors.SourceError("x"), 3),
        (errors.ModelError("x"), 4),
        (errors.SinkError("x"), 5),
        (errors.DeviceError("x"), 6),
        (errors.DivergedError("x"), 7),
    ],
)
def test_every_error_has_its_exit_code(error, exit_code):
    assert isinstance(error, I2IError)
    assert error.exit_code == exit_code


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_has_an_exit_code_and_is_not_caught_with_errors(number, exit_code):
    stopped = Interrupted("x", number)

    assert not isinstance(stopped, Exception)
    assert stopped.exit_code == exit_code


ODD_PASSWORDS = [
    "secret", "with@at", "two@@ats", "with/slash", "with:colon", "with?question", "with#hash", "with%40percent",
    "with&and", "with=equals", "with+plus", "with'quote", 'with"quote', "with`tick", "with\\backslash", "with<angle>",
    "with(parens)", "with[brackets]", "with{braces}", "with|pipe", "with;semicolon", "with,comma", "with$dollar",
    "with!bang", "with~tilde", "with^caret", "with*star", "-dash", "://", "@", "", "http://", "pässwörd", "密码",
    "x" * 500,
]  # fmt: skip


@pytest.mark.parametrize("password", ODD_PASSWORDS)
def test_no_odd_password_is_shown(password):
    message = f"could not open 'rtsp://admin:{password}@10.0.0.5:554/live': refused"

    assert redact(message) == "could not open 'rtsp://***@10.0.0.5:554/live': refused"


@given(st.text(alphabet=string.ascii_letters + string.punctuation + string.digits))
def test_no_password_whatever_is_shown(password):
    assert redact(f"rtsp://admin:{password}@10.0.0.5/live: gone") == "rtsp://***@10.0.0.5/live: gone"


@pytest.mark.parametrize("address", ["rtsp:/admin:secret@camera/live", "RTSP://admin:secret@camera/live"])
def test_an_address_that_pathlib_or_a_user_has_bent_is_masked_too(address):
    assert "secret" not in redact(address)


def test_every_address_in_a_message_is_masked():
    assert redact("rtsp://a:b@one/x and http://c:d@two/y") == "rtsp://***@one/x and http://***@two/y"


@pytest.mark.parametrize(
    "text",
    ["me@home.mp4: no such video file", "C:/Users/me@home/clip.mp4", "rtsp://10.0.0.5/live: gone", "a: b/c@d", ""],
)
def test_text_without_a_password_is_left_as_it_is(text):
    assert redact(text) == text


@given(st.text())
def test_masking_twice_changes_nothing_more(text):
    assert redact(redact(text)) == redact(text)


WORDS = [
    "user=",
    "password=",
    "_password=",
    "user-pw=",
    "?u=",
    "&p=",
    "rtsp://",
    "a:b@",
    "'",
    '"',
    " ",
    "\\",
    "secret",
    "/",
]


@given(st.lists(st.sampled_from(WORDS)).map("".join))
def test_masking_words_of_a_password_twice_changes_nothing_more(text):
    assert redact(redact(text)) == redact(text)


def test_the_reason_of_an_error_is_the_first_line_of_what_a_library_said():
    assert reason(ValueError("no such layer\n  at conv.cpp:12\n")) == "no such layer"


def test_the_reason_of_an_error_without_words_is_its_class():
    assert reason(KeyError()) == "KeyError"


def test_the_reason_of_an_error_is_short_and_holds_no_password():
    text = reason(OSError("http://me:secret@host/ " + "x" * 10_000))

    assert len(text) <= 300
    assert "secret" not in text
