"""Goes the way of `i2i-run` to the first inference, one timed step after the other. A program: see `startup.py`.

Its arguments are a JSON object with `path`, `size`, and `backend`, `device` and `precision` as of an
`EngineContestant`, and the `time.perf_counter()` of the process that starts it. It prints JSON: `steps`, by name the
seconds on the clock and those of the processor, and `files`, what it has loaded.
"""

# ruff: noqa: E402

from __future__ import annotations

# First of all, and without importing anything that a step below is to pay for.
import time

_BEGAN_S, _BEGAN_CPU_S = time.perf_counter(), time.process_time()

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_RUNTIME = ("cli", "request", "launch", "pipeline", "translator", "status_line", "sources.images", "sinks.images")
"""What `i2i-run` imports on its way."""
_ENGINES = {".onnx": "onnxruntime", ".xml": "openvino"}
"""The engine of each suffix, and so the library; that of a plan is named in its sidecar."""

Steps = dict[str, tuple[float, float]]


def main() -> None:
    """Do it, and print what it took."""
    what, began_s = json.loads(sys.argv[1]), float(sys.argv[2])
    steps: Steps = {"Python itself": (_BEGAN_S - began_s, _BEGAN_CPU_S)}
    with _timed(steps, "importing i2i_runtime, with NumPy and OpenCV"):
        for name in _RUNTIME:
            importlib.import_module(f"i2i_runtime.{name}")
    from pathlib import Path

    # What is of the benchmark is in no step. The folder of this file is no place to import from.
    sys.path[0] = str(Path(__file__).parents[1])
    from measuring.model_contestants import EngineContestant

    path = Path(what["path"])
    contestant = EngineContestant(
        name=path.name,
        path=path,
        size=tuple(what["size"]),
        backend=what["backend"],
        engine_device=what["device"],
        engine_precision=what["precision"],
    )
    with _timed(steps, "importing the engine's library"):
        _import_library(contestant.path, contestant.backend)
    with _timed(steps, "loading and compiling the model"):
        running = contestant.open()
    with _timed(steps, "first inference"):
        running.run()
    with _timed(steps, "second inference"):
        running.run()
    print(json.dumps({"steps": steps, "files": [str(path), *_loaded()]}))


@contextlib.contextmanager
def _timed(steps: Steps, name: str) -> Iterator[None]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    steps[name] = time.perf_counter() - wall_s, time.process_time() - cpu_s


def _import_library(path: Path, backend: str | None) -> None:
    engine = backend or _ENGINES.get(path.suffix.lower())
    if engine is not None:
        importlib.import_module(f"i2i_runtime.engines.{engine}")
        return
    from i2i_runtime.engines import manifest, nvinfer, tensorrt  # noqa: F401

    found = manifest.read_manifest(path)
    if found is not None:
        nvinfer.load_library(found.library)
        nvinfer.cuda_runtime()


def _loaded() -> Iterator[str]:
    """Files of modules, and the libraries that are mapped, where the system lists them."""
    for module in list[Any](sys.modules.values()):
        yield from filter(None, (getattr(module, name, None) for name in ("__file__", "__cached__")))
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8") as lines:  # noqa: PTH123
        yield from sorted({path for line in lines if (path := line[line.find("/") :].strip()).startswith("/")})


if __name__ == "__main__":
    main()
