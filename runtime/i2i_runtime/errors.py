"""The tree of errors a user can cause or meet; each class bears the exit code of the command it ends.

    I2IError             1   (only its children are raised)
    ├── UsageError       2   a flag, a setting, a combination of them
    ├── SourceError      3   pictures, videos, cameras, training data
    ├── ModelError       4   checkpoints, ONNX files, engines and their outputs
    ├── SinkError        5   whatever is written: videos, pictures, checkpoints, the disk
    ├── DeviceError      6   a GPU or provider that was asked for and is not there
    ├── DivergedError    7   a training whose loss is no longer a number
    └── Interrupted  128+n   signal n: 130 for Ctrl-C, 143 for SIGTERM

A message is one line: the thing, what was expected, what was found, what to do.
"""

from __future__ import annotations

import re


class I2IError(Exception):
    """Base of all errors that end a command with one line and an exit code."""

    exit_code = 1


class UsageError(I2IError):
    """A flag, a setting or a combination of them that makes no sense."""

    exit_code = 2


class SourceError(I2IError):
    """Input that cannot be opened, read or paired."""

    exit_code = 3


class ModelError(I2IError):
    """A checkpoint, ONNX file or engine that cannot be used, or whose output is wrong."""

    exit_code = 4


class BadOutputError(ModelError):
    """A frame for which the model returned NaN or infinity; the next one may be good."""


class SinkError(I2IError):
    """Output that cannot be written."""

    exit_code = 5


class DeviceError(I2IError):
    """A device that was asked for and cannot be used."""

    exit_code = 6


class OutOfMemoryError(DeviceError):
    """A device without room for a model or one of its runs; loading it anew may help once."""


class DivergedError(I2IError):
    """A training whose losses are no longer finite."""

    exit_code = 7


class Interrupted(I2IError):  # noqa: N818  (the word of the field: KeyboardInterrupt)
    """The user or the system asked the command to stop; everything was finalised first."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


_ADDRESS = re.compile(
    # One slash is enough: pathlib turns rtsp:// into rtsp:/.
    r"(?P<scheme>\b[a-z][a-z0-9+.-]+:/{1,2})(?P<rest>\S*)"
    # Without a scheme: user:password@host, but not C:\pictures.
    r"|(?<![^\s'\"(\[=,])(?![a-z]:[\\/])[^\s:/@'\"=]+:\S*@\S*",
    re.IGNORECASE,
)
_PASSWORD_WITH_SPACES = re.compile(
    r"(\b[a-z][a-z0-9+.-]+:/{1,2})[^\s@/?#:\[]*:(?!\d*(?:[/?#\s]|$))[^\s@]+[ \t][^\n]*@", re.IGNORECASE
)
_CUT_OFF = re.compile(r"(?:\[[^\s\]]*\]|(?!\[[^\s\]]*\])[^\s@/?#:]*):(?!\d*(?:[/?#'\"),;:.\]]|$))\S+")
"""A user and what is no port, without the @ that should follow."""
_FILE_NAME = re.compile(
    r"[^/@\s]*\.(?:jpe?g|png|bmp|webp|gif|tiff?|avif|mp4|mkv|avi|webm|m3u8|mjpe?g|onnx|plan)"
    r"(?=$|[\s'\"),;?#]|:(?!\d))",
    re.IGNORECASE,
)
_TO_END = r"(?=[:;,.'\")\]>]*(?:[&\s]|$))"
"""Where a secret ends: what closes it may belong to the sentence around it."""
_SECRET_IN_QUERY = re.compile(
    r"([?&;#][\w.-]*?(?:token|pass(?:word|wd|phrase)?|loginpas|pwd|psw|pw|auth(?:orization)?|key|secret|sig(?:nature)?"
    rf"|session|credentials?|user(?:name)?|usr|loginuse|login|account)=)[^&\s]*?{_TO_END}",
    re.IGNORECASE,
)
_PAIR_IN_QUERY = re.compile(
    rf"([?&]u=)[^&\s]*(&(?:[^&\s]*&)*?p=)[^&\s]*?{_TO_END}|([?&]p=)[^&\s]*(&(?:[^&\s]*&)*?u=)[^&\s]*?{_TO_END}",
    re.IGNORECASE,
)
"""`u` and `p` of one query: each alone is too often something else, such as a page."""
_PAIR_IN_PATH = re.compile(
    r"((?:^|[/\s'\"])user(?:name)?=)[^\s/]*?([_&]pass(?:word|wd)?=)\S*?"
    rf"(?=[_&](?:channel|stream|onvif|proto)=|{_TO_END[3:]}",
    re.IGNORECASE,
)
"""As XMEye cameras want it: `/user=admin_password=hunter2_channel=1_stream=0.sdp`."""
_WORDS_OF_SECRETS = r"(?:(?:user|proxy)-(?:id|pw)|pass(?:word|wd|phrase)?|pwd|psw)"
_VALUE = rf"""\s*=\s*)(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\S*?{_TO_END.replace("&", "")})"""
_SECRET_PROPERTY = re.compile(rf"((?<![^\s'\"(\[{{,;!=])(?:{_WORDS_OF_SECRETS}){_VALUE}", re.IGNORECASE)
"""A word of its own, as the properties of a GStreamer element are."""
_USER_PROPERTY = re.compile(rf"((?<![^\s'\"(\[{{,;!=])(?:user(?:name)?|usr|login){_VALUE}", re.IGNORECASE)


def redact(text: str) -> str:
    """Mask user names, passwords and access tokens of every address in `text`; in doubt it masks too much.

    >>> redact("rtsp://admin:hunter2@10.0.0.5/stream?token=abc")
    'rtsp://***@10.0.0.5/stream?token=***'
    """
    text = _ADDRESS.sub(_without_user, _PASSWORD_WITH_SPACES.sub(r"\1***@", text))
    text = _PAIR_IN_QUERY.sub(_without_pair, _SECRET_IN_QUERY.sub(r"\1***", text))
    text = _PAIR_IN_PATH.sub(r"\1***\2***", text)
    if _SECRET_PROPERTY.search(text):
        # Alone, user=me.jpg is the name of a file.
        text = _USER_PROPERTY.sub(r"\1***", _SECRET_PROPERTY.sub(r"\1***", text))
    return text


def _without_pair(pair: re.Match[str]) -> str:
    first, second = (each for each in pair.groups() if each)
    return f"{first}***{second}***"


def _without_user(address: re.Match[str]) -> str:
    scheme = address["scheme"] or ""
    rest = address["rest"] if scheme else address[0]
    # The last @ ends the password, which may itself hold @, /, ? or a quote; but clip@2x.mp4 is the name of a file.
    at = rest.rfind("@")
    while at >= 0 and _FILE_NAME.match(rest, at + 1):
        at = rest.rfind("@", 0, at)
    if at == 0:
        return address[0]  # udp://@239.0.0.1: nobody's
    if at > 0:
        return f"{scheme}***{rest[at:]}"
    return f"{scheme}***" if scheme and _CUT_OFF.match(rest) else f"{scheme}{rest}"


def reason(error: BaseException) -> str:
    """The first line of what a library said, short enough for our own one-line message."""
    # Masked before it is cut: half an address no longer shows where its password ends.
    text = redact(str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def system_reason(error: BaseException) -> str:
    """What the system said, without the path, for a message of ours that begins with it."""
    return getattr(error, "strerror", None) or reason(error)
