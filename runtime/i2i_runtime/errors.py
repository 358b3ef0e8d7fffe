"""The tree of errors a user can cause or meet; each class bears the exit code of the command it ends.

    I2IError             1   (only its children are raised)
    ├── UsageError       2   a flag, a setting, a combination of them
    ├── SourceError      3   pictures, videos, cameras, training data
    ├── ModelError       4   checkpoints, ONNX files, engines and their outputs
    ├── SinkError        5   whatever is written: videos, pictures, checkpoints, the disk
    ├── DeviceError      6   a GPU or provider that was asked for and is not there
    └── DivergedError    7   a training whose loss is no longer a number
    Interrupted      128+n   signal n: 130 for Ctrl-C, 143 for SIGTERM; no error, and caught by nobody who catches those

A message is one line: the thing, what was expected, what was found, what to do.
"""

from __future__ import annotations

from i2i_runtime.redaction import redact


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


class Interrupted(BaseException):
    """The user or the system asked the command to stop; everything was finalised first.

    As with KeyboardInterrupt it is no `Exception`: a signal comes anywhere, and who tries something that may fail must
    not take it for the failure.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def reason(error: BaseException) -> str:
    """The first line of what a library said, short enough for our own one-line message."""
    # Masked before it is cut: half an address no longer shows where its password ends.
    text = redact(str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def system_reason(error: BaseException) -> str:
    """What the system said, without the path, for a message of ours that begins with it."""
    return getattr(error, "strerror", None) or reason(error)
