"""How a command of ours ends: one line for an error, an exit code for everything, a clean stop on a signal."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from i2i_runtime.errors import I2IError, Interrupted, reason
from i2i_runtime.redaction import redact

debug_option = click.option("--debug", is_flag=True, help="Show the full traceback of an error.")


def run(command: click.Command) -> NoReturn:
    """Run a click command as a program: never a traceback without --debug, exit codes as in `errors`."""
    signal.signal(signal.SIGTERM, _raise_interrupted)
    arguments = sys.argv[1:]
    try:
        # Where the reader of our output has gone (`| head`), click ends the process itself: code 1, without a word.
        outcome = command.main(arguments, standalone_mode=False)
        code = outcome if isinstance(outcome, int) else 0
    except click.ClickException as error:
        code = _say(error.format_message(), error.exit_code)
    except Interrupted as error:  # asked for, and no error
        click.echo(redact(str(error)), err=True)
        code = error.exit_code
    except I2IError as error:
        if "--debug" in arguments:
            _show_traceback()
        code = _say(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _say("interrupted", 130)
    except MemoryError:
        code = _say("out of memory: use a smaller --size or --batch", 6)
    except Exception as error:
        if "--debug" in arguments:
            _show_traceback()
        code = _say(f"unexpected {type(error).__name__}: {reason(error)} (run again with --debug)", 1)
    if sys.stdout is not None:  # None where the parent process gave us none (`>&-`)
        sys.stdout.flush()
    sys.exit(code)


def _show_traceback() -> None:
    # Libraries put whole addresses into their errors.
    click.echo(redact(traceback.format_exc()), err=True, nl=False)


def _say(message: str, exit_code: int) -> int:
    one_line = redact(" ".join(message.split()))
    click.echo(f"error: {one_line}", err=True)
    return exit_code


def _raise_interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted("terminated", number)


class StopRequest:
    """Says whether a signal asked to stop; long loops look at it between two steps."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal_number: int | None = None

    def set(self, signal_number: int) -> None:
        """Ask for the stop that `signal_number` stands for."""
        self.signal_number = signal_number
        self.event.set()

    def __bool__(self) -> bool:
        return self.event.is_set()

    def raise_if_set(self, message: str) -> None:
        """End with `Interrupted` (and so with 130 or 143) when a stop was asked for."""
        if self.signal_number is not None:
            raise Interrupted(message, self.signal_number)


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn SIGINT or SIGTERM into a request; a SIGINT after it interrupts at once.

    SIGTERM may come more than once without anyone being impatient: a cluster signals every process, and a launcher
    passes its own signal on.

    Outside the main thread, where Python delivers no signals, the request is simply never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not request:
            request.set(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
