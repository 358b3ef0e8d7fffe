"""Work that needs PyTorch, in another process: it would stay in the benchmark's own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from i2i_runtime.errors import DeviceError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def in_other_process(
    function: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Call a function of a module there; what it raises is raised here.

    Raises:
        DeviceError: the process died.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        try:
            return processes.submit(function, *arguments, **named).result()
        except BrokenProcessPool as error:
            raise DeviceError("the process with PyTorch died; the system may have run out of memory") from error
