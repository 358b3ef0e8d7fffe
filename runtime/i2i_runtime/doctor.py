"""What a maintainer asks for in a bug report, and what a user needs to mend a machine.

Everything that is looked at may be broken: a wheel that aborts, a driver that hangs, a package half installed. So each
probe runs in a process of its own, which sends its findings one by one; those that came before it died are kept.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from i2i_runtime import __version__
from i2i_runtime.errors import DeviceError, I2IError, reason
from i2i_runtime.isolated import isolated_python
from i2i_runtime.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console

    from i2i_runtime.engines.manifest import Library

Verdict = Literal["ok", "note", "problem"]

TIME_LIMIT = 15.0
"""Seconds for each probe, of which several run at a time. It is for what hangs: the first import of an engine from a
slow disk takes several seconds, and must not be called a fault."""
H264_ENCODERS = ("libx264", "h264_nvenc", "h264_qsv", "h264_amf", "h264_videotoolbox", "h264_v4l2m2m")
"""Those of `h264`, each tried by itself: the processor, NVIDIA, Intel, AMD, Apple, Raspberry Pi."""
_PROTOCOLS = ("rtsp", "rtmp", "http", "https")
_ENGINES = "Engines"
_GPUS = "NVIDIA GPU"
_ORT_CPU, _ORT_CUDA, _OPENVINO = "ONNX Runtime on the CPU", "ONNX Runtime on CUDA", "OpenVINO"
_TENSORRT: dict[str, Library] = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt_rtx"}
_CUDA = "CUDA"
_OPTIONAL = {
    "aiohttp": "preview page",
    "aiortc": "WebRTC",
    "mss": "screen capture",
    "pyvirtualcam": "virtual camera",
}
_REINSTALL = {
    "onnxruntime": "pip install 'i2i[gpu]' for an NVIDIA GPU, else pip install 'i2i[cpu]'",
    "opencv-python": "pip install opencv-python, or opencv-python-headless on a machine without a screen",
}
"""What to install once a pair of `engines.open.wheel_conflicts` is gone, by the first of the pair."""
_CPU_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "avx512_bf16": "bf16",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "asimdhp": "fp16",
    "asimddp": "int8 dot product",
    "bf16": "bf16",
    "i8mm": "int8 matrices",
    "sve": "SVE",
}
"""Flags of /proc/cpuinfo that an inference library chooses its kernels by (x86 first, then Arm)."""
_LOW_DISK = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    value: str
    verdict: Verdict = "ok"
    """`note` for what is missing but not needed by everyone, `problem` for what the user should mend."""
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Findings that belong together."""

    name: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings about this machine, without the user's name, home folder or passwords."""

    sections: tuple[Section, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What the user should mend."""
        return tuple(f for section in self.sections for f in section.findings if f.verdict == "problem")

    @property
    def exit_code(self) -> int:
        """0, or that of a device that cannot be used (6) where there is a problem."""
        return DeviceError.exit_code if self.problems else 0

    def as_dict(self) -> dict[str, Any]:
        """Ready for `json.dumps`."""
        return {
            "sections": [{"name": s.name, "findings": [asdict(f) for f in s.findings]} for s in self.sections],
            "problems": len(self.problems),
        }

    def lines(self) -> list[str]:
        """The report as text, to be pasted."""
        return [line for line, _ in self.styled_lines()]

    def styled_lines(self) -> Iterator[tuple[str, str]]:
        """Each line with its style for rich."""
        styles = {"ok": "", "note": "yellow", "problem": "bold red"}
        width = max((len(f.name) for section in self.sections for f in section.findings), default=0)
        for section in self.sections:
            yield section.name, "bold"
            for f in section.findings:
                yield f"  {f.verdict if f.verdict != 'ok' else '':7}  {f.name:{width}}  {f.value}", styles[f.verdict]
                if f.advice:
                    yield f"  {'':7}  {'':{width}}  -> {f.advice}", styles[f.verdict]
        count = len(self.problems)
        yield (f"{count} problem{'s' * (count > 1)} found", "bold red") if count else ("no problem found", "bold green")


def show(report: Report, console: Console) -> None:
    """Print the report; long lines stay whole, for pasting."""
    from rich.text import Text

    for line, style in report.styled_lines():
        console.print(Text(line, style), soft_wrap=True)


def examine(time_limit: float = TIME_LIMIT) -> Report:
    """Look at everything. Never raises for what it finds.

    Args:
        time_limit: seconds for each probe, after which what it looks at counts as hanging.
    """
    pool = ThreadPoolExecutor(max_workers=min(8, max(4, os.cpu_count() or 1)))
    try:
        answers = list(pool.map(lambda probe: _ask(probe, time_limit), _PROBES))
    finally:
        pool.shutdown(cancel_futures=True)
    found: dict[str, list[Finding]] = {"Summary": []}
    for probe, findings in zip(_PROBES.values(), answers, strict=True):
        found.setdefault(probe.section, []).extend(findings)
    found["Summary"].extend(_summary(found.get(_ENGINES, []), found.get(_GPUS, [])))
    return Report(
        sections=tuple(Section(name=name, findings=tuple(map(_publishable, of))) for name, of in found.items())
    )


def _summary(engines: list[Finding], gpus: list[Finding]) -> Iterator[Finding]:
    """Whether models can run here: what no single probe can say."""
    fine = {f.name for f in engines if f.verdict == "ok"}
    has_cuda = any(f.name == _CUDA and f.verdict == "ok" for f in gpus)
    on_gpu = [name for name in (_ORT_CUDA, *_TENSORRT) if name in fine and has_cuda | (name == _ORT_CUDA)]
    on_cpu = [name for name in (_ORT_CPU, _OPENVINO) if name in fine]
    yield Finding(name="i2i", value=__version__)
    if on_gpu or on_cpu:
        yield Finding(name="engines", value=", ".join(on_gpu + on_cpu))
    else:
        yield Finding(
            name="engines",
            value="no engine to run a model with",
            verdict="problem",
            advice="pip install 'i2i[cpu]', 'i2i[openvino]', or 'i2i[gpu]' for an NVIDIA GPU",
        )
    if any(f.name.startswith("GPU") and f.verdict == "ok" for f in gpus) and not on_gpu:
        yield Finding(
            name="GPU",
            value="an NVIDIA GPU is here, and no engine can use it",
            verdict="problem",
            advice="pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'i2i[gpu]' (.onnx); or "
            "pip install 'i2i[tensorrt]' and TensorRT (.plan), which a Jetson has from JetPack",
        )


def _publishable(finding: Finding) -> Finding:
    """Without secrets, names of people and control characters; `finding` may quote any library or device."""
    return Finding(
        name=_private(finding.name),
        value=_private(finding.value),
        verdict=finding.verdict,
        advice=_private(finding.advice),
    )


def _private(text: str) -> str:
    text = redact("".join(c if c.isprintable() else " " for c in text))
    for home in _homes():
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    # Home folders and drives of others: under sudo, say, or a virtual environment of a colleague.
    text = re.sub(r"((?:/home|/Users|/media|\\Users)[/\\])[^/\\\s:'\"]+", r"\1USER", text)
    return " ".join(text.split())


@functools.cache
def _homes() -> tuple[str, ...]:
    """The home folder as it is called, longest name first; none where it is the root folder."""
    try:
        home = Path.home()
        names = {str(home), str(home.resolve())}
    except (RuntimeError, OSError):
        return ()
    return tuple(sorted((n for n in names if len(Path(n).parts) > 1), key=len, reverse=True))


# How a probe is asked, and answers.


@dataclass(frozen=True, kw_only=True)
class _Probe:
    section: str
    about: str
    """What its own failure is called."""
    run: Callable[[], Iterable[Finding]]


_ANSWER = "from i2i_runtime import doctor; doctor.answer(sys.argv[1])"


def _ask(name: str, time_limit: float) -> list[Finding]:
    about = _PROBES[name].about
    try:
        findings, failure = _converse(name, time_limit)
    except Exception as error:  # no memory for a process, say
        findings, failure = [], f"could not be examined ({reason(error)})"
    if failure:
        advice = "install its package again, and report it where that does not help"
        findings.append(Finding(name=about, value=failure, verdict="problem", advice=advice))
    return findings


def _converse(name: str, time_limit: float) -> tuple[list[Finding], str]:
    """The findings of a probe's process, and why it failed."""
    process = subprocess.Popen(  # noqa: S603
        isolated_python(_ANSWER, name),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    is_late = False
    try:
        said, complained = process.communicate(timeout=time_limit)
    except subprocess.TimeoutExpired as late:
        is_late, said, complained = True, late.output or b"", late.stderr or b""
    finally:
        if process.poll() is None:
            process.kill()
            # A process that hangs inside a driver cannot be killed: it is left behind.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    findings, ended = [], False
    for line in said.decode("utf-8", "replace").splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue  # cut off where it was killed
        if answer is None:
            ended = True
        else:
            findings.append(Finding(**answer))
    if ended:
        return findings, ""
    if is_late:
        return findings, f"no answer within {time_limit:g} s: it hangs, or this machine is very slow"
    last_words = complained.decode("utf-8", "replace").strip().splitlines()[-1:]
    return findings, f"{_end_of(process.returncode)}{''.join(f' ({reason(Exception(w))})' for w in last_words)}"


def _end_of(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process was killed by signal {-code}"


def answer(name: str) -> None:
    """Run the probe `name` in this process, made for it: findings to standard output, one a line, then `null`."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort leaves no core file in the user's folder
    # Libraries that print must not come between: what they take for standard output is standard error.
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as channel:
        os.dup2(2, 1)
        probe = _PROBES[name]
        try:
            for finding in probe.run():
                channel.write(f"{json.dumps(asdict(finding))}\n")
        except BaseException as error:  # sys.exit() of a package included
            failed = Finding(name=probe.about, value=f"failed ({_said(error)})", verdict="problem")
            channel.write(f"{json.dumps(asdict(failed))}\n")
        channel.write("null\n")
    # Some libraries crash when they are taken down; what they had to say is said.
    os._exit(0)


def _said(error: BaseException) -> str:
    kind = "" if isinstance(error, I2IError) else f"{type(error).__name__}: "
    return f"{kind}{reason(error)}"


# The probes.


def _system() -> Iterator[Finding]:
    in_venv = ", in a virtual environment" if sys.prefix != sys.base_prefix else ""
    yield Finding(
        name="Python", value=f"{platform.python_implementation()} {platform.python_version()}{in_venv}, {sys.prefix}"
    )
    yield Finding(name="system", value=_system_name())
    yield Finding(name="machine", value=platform.machine() or "unknown")
    yield from _jetson()
    model, flags = _cpu()
    yield Finding(name="CPU", value=model)
    features = list(dict.fromkeys(name for flag, name in _CPU_FEATURES.items() if flag in flags))
    is_slow = bool(flags) and "avx2" not in flags and platform.machine() in ("x86_64", "AMD64")
    yield Finding(
        name="CPU features",
        value=", ".join(features) or ("none that matters" if flags else "unknown"),
        verdict="note" if is_slow else "ok",
        advice="without AVX2 every engine is several times slower" if is_slow else "",
    )
    yield Finding(name="cores", value=_cores())
    yield Finding(name="memory", value=_memory())


def _system_name() -> str:
    release = f"{platform.system()} {platform.release()}"
    with contextlib.suppress(OSError):
        release = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {release}"
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")):
        release += ", in a container"
    return release


def _jetson() -> Iterator[Finding]:
    if model := _text(Path("/proc/device-tree/model")):
        yield Finding(name="board", value=model.rstrip("\0"))
    # For example `# R36 (release), REVISION: 4.3, GCID: ...`
    if found := re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(Path("/etc/nv_tegra_release"))):
        yield Finding(name="Jetson Linux", value=f"{found[1]}.{found[2]}")


def _cpu() -> tuple[str, set[str]]:
    """Its name, and the flags of Linux; none of them on another system."""
    facts = dict(re.findall(r"^(model name|Model|flags|Features)\s*:\s*(.*)$", _text(Path("/proc/cpuinfo")), re.M))
    name = facts.get("model name") or facts.get("Model") or platform.processor() or "unknown"
    return name, set(f"{facts.get('flags', '')} {facts.get('Features', '')}".split())


def _cores() -> str:
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    text = str(count) if usable == count else f"{usable} of {count} may be used"
    # For example `200000 100000` for two cores' worth of time, or `max 100000`.
    quota, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return f"{text}, limited to the time of {int(quota) / int(period):g}" if quota.isdigit() else text


def _memory() -> str:
    kilobytes = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", _text(Path("/proc/meminfo")), re.M))
    if not kilobytes:
        return "unknown"
    total, free = (int(kilobytes.get(key, 0)) * 1024 for key in ("MemTotal", "MemAvailable"))
    return f"{_gigabytes(free)} of {_gigabytes(total)} free"


def _packages() -> Iterator[Finding]:
    from i2i_runtime.engines.open import wheel_conflicts

    extras = _requirements()
    if not extras:
        yield Finding(name="i2i", value="run without being installed: its extras are not known", verdict="note")
    for extra, names in extras.items():
        versions = {name: _version(name) for name in names}
        is_whole = all(versions.values())
        # No advice: what an extra brings may be the twin of what is here.
        yield Finding(
            name=f"[{extra}]" if extra else "base",
            value=", ".join(f"{name} {version or '(missing)'}" for name, version in versions.items()),
            verdict="ok" if is_whole else "note" if extra else "problem",
        )
    known = {name for names in extras.values() for name in names}
    for name, purpose in _OPTIONAL.items():
        if name not in known:
            version = _version(name)
            value = f"{version or 'not installed'} ({purpose})"
            yield Finding(name=name, value=value, verdict="ok" if version else "note")
    conflicts = wheel_conflicts()
    for conflict in conflicts:
        trouble, _, advice = conflict.partition("; ")
        again = _REINSTALL.get(conflict.split()[0], "")
        yield Finding(
            name="wheels",
            value=trouble,
            verdict="problem",
            advice=f"{advice.partition(', then')[0]}; then {again}" if again else advice,
        )
    if not conflicts:
        yield Finding(name="wheels", value="no two that overwrite each other")


def _requirements() -> dict[str, list[str]]:
    """Extra to the packages that it brings, each under the smallest extra that does; "" has what i2i always needs."""
    try:
        lines = metadata.requires("i2i") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
        bound = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        # What another Python would need is not missing here.
        if name != "i2i" and not ("python_version" in marker and not _version(name)):
            found.setdefault(bound[1] if bound else "", []).append(name)
    own: dict[str, list[str]] = {}
    seen: set[str] = set()
    for extra, names in sorted(found.items(), key=lambda item: (item[0] != "", len(item[1]))):
        if new := [name for name in dict.fromkeys(names) if name not in seen]:
            own[extra] = new
        seen.update(names)
    return own


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _missing(library: str, error: ImportError) -> bool:
    """Whether it is `library` itself that is not there, not something that it needs."""
    return isinstance(error, ModuleNotFoundError) and error.name == library


def _onnxruntime() -> Iterator[Finding]:
    try:
        ort = importlib.import_module("onnxruntime")
        version, providers = ort.__version__, ort.get_available_providers()
    except ImportError as error:
        if not _missing("onnxruntime", error):
            raise
        advice = "pip install 'i2i[cpu]', or 'i2i[gpu]' for an NVIDIA GPU"
        yield Finding(name="ONNX Runtime", value="not installed", verdict="note", advice=advice)
        return
    wheels = sorted({d.name for d in metadata.distributions() if (d.name or "").startswith("onnxruntime")})
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    yield Finding(name="ONNX Runtime", value=f"{version} ({', '.join(wheels) or 'no package'}), providers: {names}")
    yield _run_onnxruntime("cpu", _ORT_CPU, "install ONNX Runtime again: pip install --force-reinstall onnxruntime")
    if "CUDAExecutionProvider" in providers:
        yield _run_onnxruntime(
            "cuda",
            _ORT_CUDA,
            "pip install 'i2i[gpu]' for its CUDA and cuDNN, and check the driver with nvidia-smi; "
            "or run with --device cpu",
        )


def _run_onnxruntime(device: Literal["cpu", "cuda"], name: str, advice: str) -> Finding:
    """Run a model of one node on `device`, through the engine that a user's model would run on."""
    import numpy as np

    from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine

    with tempfile.TemporaryDirectory() as folder, _native_log(Path(folder) / "log") as log:
        model = Path(folder) / "probe.onnx"
        model.write_bytes(_tiny_onnx())
        try:
            with OnnxRuntimeEngine(model, device) as engine:
                result = engine.run(np.array([-1, 2], np.float32))
        except I2IError as error:
            # The engine says that it fell back; the log says which library was missing.
            text = _cause(log.read_text("utf-8", "replace")) or reason(error).replace(f"{model}: ", "")
            return Finding(name=name, value=f"cannot be used ({text})", verdict="problem", advice=advice)
    if result.tolist() != [0, 2]:
        return Finding(name=name, value=f"computes {result.tolist()} for [0, 2]", verdict="problem", advice=advice)
    return Finding(name=name, value="a model runs")


@contextlib.contextmanager
def _native_log(path: Path) -> Iterator[Path]:
    """Send standard error to `path` for a while, also what C++ writes there."""
    before = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield path
        finally:
            os.dup2(before, 2)
            os.close(before)


def _cause(log: str) -> str:
    """Why ONNX Runtime could not load a provider: `libcublasLt.so.12: cannot open shared object file: ...`."""
    found = re.search(r"with error: (.*)", log) or re.search(r"\[ONNXRuntimeError\] : (.*)", log)
    return reason(Exception(found[1])) if found else ""


def _tiny_onnx() -> bytes:
    """An ONNX model of one Relu on two floats, written as onnx.proto numbers its fields."""

    def field(number: int, value: bytes | str | int) -> bytes:
        if isinstance(value, int):
            return bytes((number << 3, value))
        content = value.encode() if isinstance(value, str) else value
        return bytes((number << 3 | 2, len(content))) + content

    def tensor(name: str) -> bytes:
        shape = field(1, field(1, 2))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    node = field(1, "x") + field(2, "y") + field(4, "Relu")
    graph = field(1, node) + field(2, "probe") + field(11, tensor("x")) + field(12, tensor("y"))
    # IR version 8 and opset 13 are read by every ONNX Runtime since 1.10.
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def _openvino() -> Iterator[Finding]:
    try:
        ov = importlib.import_module("openvino")
        core = ov.Core()
    except ImportError as error:
        if not _missing("openvino", error):
            raise
        yield Finding(name=_OPENVINO, value="not installed", verdict="note", advice="pip install 'i2i[openvino]'")
        return
    devices = list(core.available_devices)
    found = "CPU" in devices
    yield Finding(
        name=_OPENVINO,
        value=f"{ov.__version__.partition('-')[0]}, devices: {', '.join(devices) or 'none'}",
        verdict="ok" if found else "problem",
        advice="" if found else "expected the device CPU: pip install --force-reinstall openvino",
    )
    for device in devices:
        name = core.get_property(device, "FULL_DEVICE_NAME")
        abilities = ", ".join(map(str, core.get_property(device, "OPTIMIZATION_CAPABILITIES")))
        yield Finding(name=f"OpenVINO {device}", value=f"{str(name).strip()}: {abilities}")


def _tensorrt(name: str, module: str) -> Iterator[Finding]:
    from i2i_runtime.engines.nvinfer import load_library

    library = _TENSORRT[name]
    try:
        trt = load_library(library)
        version = getattr(trt, "__version__", "of an unknown version")
    except I2IError as error:
        trouble, _, advice = str(error).partition("; ")
        cause = error.__cause__
        if isinstance(cause, ImportError) and _missing(module, cause):
            yield Finding(name=name, value="not installed", verdict="note", advice=advice)
        else:
            yield Finding(name=name, value=trouble, verdict="problem", advice=advice)
        return
    yield Finding(name=name, value=f"{version} loads")


def _gpus() -> Iterator[Finding]:
    seen = list(_driver_gpus())
    yield from seen
    from i2i_runtime.engines import nvinfer

    doing = "looking for a GPU"
    try:
        cuda = nvinfer.cuda_runtime()
        (count,) = nvinfer.cuda_values(cuda, cuda.cudaGetDeviceCount(), doing)
        (driver,) = nvinfer.cuda_values(cuda, cuda.cudaDriverGetVersion(), doing)
        nvinfer.require_gpu()
    except DeviceError as error:
        # Only TensorRT goes this way: ONNX Runtime brings its own.
        yield Finding(name=_CUDA, value=f"not through cuda-bindings ({reason(error)})", verdict="note")
        return
    yield Finding(name=_CUDA, value=f"driver for CUDA {driver // 1000}.{driver % 1000 // 10}")
    for number in range(0 if any(f.name.startswith("GPU") for f in seen) else count):
        (facts,) = nvinfer.cuda_values(cuda, cuda.cudaGetDeviceProperties(number), doing)
        capability = f"compute capability {facts.major}.{facts.minor}"
        value = f"{facts.name.decode()}, {capability}, {_gigabytes(facts.totalGlobalMem)}"
        yield Finding(name=f"GPU {number}", value=value)


def _driver_gpus() -> Iterator[Finding]:
    """What the driver knows, or else the bus."""
    if program := shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,compute_cap,memory.total,memory.free"
        said = subprocess.run(  # noqa: S603
            [program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=8, check=False
        )
        lines = [line.strip() for line in said.stdout.splitlines() if line.strip()]
        if said.returncode == 0 and lines:
            for number, line in enumerate(lines):
                name, driver, capability, total, free = [*line.split(", "), *["unknown"] * 5][:5]
                value = f"{name}, driver {driver}, compute capability {capability}, {free} of {total} free"
                yield Finding(name=f"GPU {number}", value=value)
            return
        yield Finding(
            name="nvidia-smi",
            value=f"fails: {(lines or [said.stderr.strip() or f'code {said.returncode}'])[0]}",
            verdict="problem",
            advice="install the NVIDIA driver again, and restart after an update of it",
        )
        return
    models = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if models:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _text(Path("/proc/driver/nvidia/version")))
        for number, path in enumerate(models):
            model = re.search(r"Model:\s*(.*)", _text(path))
            kernel = f", driver {found[1]}" if found else ""
            yield Finding(name=f"GPU {number}", value=f"{model[1] if model else 'unknown'}{kernel}")
        return
    if _is_on_pci_bus():
        yield Finding(
            name="card",
            value="an NVIDIA card is in this machine, and its driver is not here",
            verdict="note",
            advice="install the NVIDIA driver; a container needs `docker run --gpus all`",
        )
        return
    is_jetson = Path("/etc/nv_tegra_release").exists()
    yield Finding(name="GPU 0", value="the Jetson's own") if is_jetson else Finding(name="card", value="none found")


def _is_on_pci_bus() -> bool:
    # 10de is NVIDIA, 03.... a display controller: a server's card counts as one too.
    return any(
        _text(path / "vendor").strip() == "0x10de" and _text(path / "class").startswith("0x03")
        for path in Path("/sys/bus/pci/devices").glob("*")
    )


def _opencv() -> Iterator[Finding]:
    import cv2

    said = dict(re.findall(r"^\s*(GUI|GStreamer|FFMPEG):\s+(.*?)\s*$", cv2.getBuildInformation(), re.M))
    yield Finding(name="OpenCV", value=f"{cv2.__version__}, GStreamer: {said.get('GStreamer', 'unknown')}, "
                                       f"FFmpeg: {said.get('FFMPEG', 'unknown')}")  # fmt: skip
    window = said.get("GUI", "unknown")
    is_headless = window == "NONE"
    yield Finding(
        name="OpenCV windows",
        value="none: a headless build" if is_headless else window,
        verdict="note" if is_headless else "ok",
        advice="for --show: pip uninstall -y opencv-python-headless, then pip install opencv-python"
        if is_headless
        else "",
    )


def _pyav() -> Iterator[Finding]:
    import av

    # Where a proxy is set, FFmpeg would ask it instead of this machine.
    os.environ.pop("http_proxy", None)
    av.logging.set_level(None)
    ffmpeg = getattr(av, "ffmpeg_version_info", "of an unknown version")
    yield Finding(name="PyAV", value=f"{av.__version__}, FFmpeg {ffmpeg}")
    missing = []
    for protocol in _PROTOCOLS:
        try:
            # Nobody listens on port 1: a protocol that is there is refused.
            av.open(f"{protocol}://127.0.0.1:1/", timeout=1).close()
        except (av.error.ProtocolNotFoundError, av.error.DemuxerNotFoundError):
            missing.append(protocol)
        except (av.error.FFmpegError, OSError):
            pass
    yield Finding(
        name="protocols",
        value=f"{', '.join(p for p in _PROTOCOLS if p not in missing)}"
        + (f"; without {', '.join(missing)}" if missing else ""),
        verdict="note" if missing else "ok",
        advice="this FFmpeg was built without them: pip install --force-reinstall --only-binary av av"
        if missing
        else "",
    )


def _encoder(name: str) -> Iterator[Finding]:
    """Encode one frame: an encoder that is listed may still find no GPU or no driver."""
    import av

    from i2i_runtime import h264

    is_needed = name == h264.SOFTWARE
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture(local=False) as log:
        trouble = h264.why_not(name, (480, 640)) if name in av.codecs_available else "not in this FFmpeg"
    if trouble:
        # FFmpeg's error is a number; what it logged first names the library or device that is missing.
        trouble = reason(Exception(next((text for level, _, text in log if level <= av.logging.ERROR), trouble)))
    yield Finding(
        name=f"H.264 {name}",
        value=f"does not open ({trouble})" if trouble else "encodes",
        verdict="ok" if not trouble else "problem" if is_needed else "note",
        advice="videos cannot be written: pip install --force-reinstall --only-binary av av"
        if trouble and is_needed
        else "",
    )


def cameras(devices: Path = Path("/dev"), system: Path = Path("/sys")) -> Iterator[Finding]:
    """The V4L2 devices, whether they may be used, and the virtual ones among them.

    Args:
        devices: where device files are.
        system: where the kernel describes them.
    """
    if platform.system() != "Linux":
        yield Finding(name="cameras", value="not listed on this system", verdict="note")
        return
    numbers = sorted(int(path.name[5:]) for path in devices.glob("video*") if path.name[5:].isdigit())
    if not numbers:
        yield Finding(name="cameras", value="none", verdict="note", advice="in a container: --device /dev/video0")
    for number in numbers:
        path, about = devices / f"video{number}", system / "class" / "video4linux" / f"video{number}"
        name = _text(about / "name").strip() or "without a name"
        # v4l2loopback makes its devices outside any bus.
        is_virtual = "virtual" in about.resolve().parts
        may_use = os.access(path, os.R_OK | os.W_OK)
        yield Finding(
            name=f"/dev/video{number}",
            value=f"{name}{' (virtual)' * is_virtual}{'' if may_use else ': no permission'}",
            verdict="ok" if may_use else "problem",
            advice="" if may_use else 'sudo usermod -aG video "$USER", then log in again',
        )
    has_loopback = (system / "module" / "v4l2loopback").exists()
    yield Finding(name="v4l2loopback", value="loaded" if has_loopback else "not loaded (only for virtual cameras)")


def _display() -> Iterator[Finding]:
    if platform.system() != "Linux":
        yield Finding(name="display", value="the system's own")
        return
    # `host:10.0` of a forwarded display: the host is nobody's business.
    x11 = re.sub(r"^[^:/]+(?=:)", "HOST", os.environ.get("DISPLAY", ""))
    wayland = bool(os.environ.get("WAYLAND_DISPLAY"))
    set_here = [*([f"X11 {x11}"] if x11 else []), *(["Wayland"] if wayland else [])]
    yield Finding(
        name="display",
        value=", ".join(set_here) or "none: no windows (--show)",
        verdict="ok" if set_here else "note",
        advice="" if set_here else "write to a file with --output; over ssh, ssh -X or DISPLAY=:0 opens windows",
    )


def _disk() -> Iterator[Finding]:
    from i2i_runtime.engines.nvinfer import cache_folder

    cache = cache_folder()
    if cache is None:
        advice = "set I2I_CACHE to a folder"
        yield Finding(name="cache", value="this user has no home folder", verdict="note", advice=advice)
    else:
        yield _cache(cache.parent)
    # As given, not resolved: a link may name what the user calls it.
    for name, folder in (
        ("disk of this folder", Path.cwd()),
        ("disk for temporary files", Path(tempfile.gettempdir())),
    ):
        free = shutil.disk_usage(folder).free
        is_low = free < _LOW_DISK
        yield Finding(
            name=name,
            value=f"{_gigabytes(free)} free",
            verdict="problem" if is_low else "ok",
            advice="make room: a video takes up to 1 GB in ten minutes" if is_low else "",
        )


def _cache(folder: Path) -> Finding:
    where = next((f for f in (folder, *folder.parents) if f.exists()), folder)
    if not (where.is_dir() and os.access(where, os.W_OK | os.X_OK)):
        return Finding(
            name="cache",
            value=f"{folder} cannot be written",
            verdict="problem",
            advice="set I2I_CACHE to a folder that can, else TensorRT engines are built anew each time",
        )
    if where != folder:
        return Finding(name="cache", value=f"{folder}, empty")
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return Finding(name="cache", value=f"{folder}, {size / 1e6:.1f} MB")


def _text(path: Path) -> str:
    """What a small file holds; nothing where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


_PROBES: dict[str, _Probe] = {
    "system": _Probe(section="System", about="system", run=_system),
    "onnxruntime": _Probe(section=_ENGINES, about="ONNX Runtime", run=_onnxruntime),
    "openvino": _Probe(section=_ENGINES, about=_OPENVINO, run=_openvino),
    "tensorrt": _Probe(section=_ENGINES, about="TensorRT", run=functools.partial(_tensorrt, "TensorRT", "tensorrt")),
    "tensorrt_rtx": _Probe(
        section=_ENGINES,
        about="TensorRT-RTX",
        run=functools.partial(_tensorrt, "TensorRT-RTX", "tensorrt_rtx_bindings"),
    ),
    "gpus": _Probe(section=_GPUS, about="NVIDIA GPU", run=_gpus),
    "packages": _Probe(section="Packages", about="packages", run=_packages),
    "opencv": _Probe(section="Pictures and video", about="OpenCV", run=_opencv),
    "pyav": _Probe(section="Pictures and video", about="PyAV", run=_pyav),
    **{
        name: _Probe(section="Pictures and video", about=f"H.264 {name}", run=functools.partial(_encoder, name))
        for name in H264_ENCODERS
    },
    "cameras": _Probe(section="Cameras and display", about="cameras", run=cameras),
    "display": _Probe(section="Cameras and display", about="display", run=_display),
    "disk": _Probe(section="Disk", about="disk", run=_disk),
}
"""By name, in the order of the report."""
