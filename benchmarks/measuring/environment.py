"""The machine, what is installed, and the command: what a figure must name to mean anything.

Nothing here names the user, the machine or a folder: reports are made to be shown.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path, PurePosixPath

from i2i_runtime import __version__
from measuring.record import Environment
from measuring.sensors.cpu import CPUS
from measuring.sensors.files import read_number, read_text
from measuring.sensors.nvml import Nvml
from measuring.sensors.tegra import is_tegra

_CHECKOUT = Path(__file__).resolve().parents[2]
_INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
)
"""Flags of /proc/cpuinfo that libraries choose their kernels by: x86, Arm."""
_ARM_CORES = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD83): "Neoverse-V3AE",
    (0x4E, 0x003): "Denver 2",
    (0x4E, 0x004): "Carmel",
}
"""By implementer and part, which is all that /proc/cpuinfo has on Arm: those of Jetsons, Raspberry Pis and clouds."""
_DISTRIBUTIONS = (
    *("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy"),
    *("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "tensorrt-rtx-cu12-bindings"),
    *("tensorrt-rtx-cu13-bindings", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)
_SETTINGS = re.compile(
    r"(?:OMP|KMP|GOMP|MKL|OPENBLAS|BLIS|VECLIB|ONEDNN|DNNL|OV|ORT|TORCHINDUCTOR|TORCHDYNAMO|CUDNN|CUBLAS)_\w+"
    r"|CUDA_(?:VISIBLE_DEVICES|DEVICE_ORDER|DEVICE_MAX_CONNECTIONS|LAUNCH_BLOCKING|MODULE_LOADING|MODULE_DATA_LOADING)"
    r"|NVIDIA_TF32_OVERRIDE|PYTORCH_\w*ALLOC_CONF|ATEN_CPU_CAPABILITY|MALLOC_\w+|LD_PRELOAD"
)
_HYPERVISORS = re.compile(
    r"QEMU|KVM|VMware|VirtualBox|innotek|Xen|Virtual Machine|Google Compute Engine|OpenStack|Parallels|BHYVE|Bochs"
    r"|Alibaba Cloud ECS|Amazon EC2(?!.*\bmetal\b)",
    re.DOTALL,
)
_PATIENCE_S = 10.0
"""For each program that is asked."""


def environment(command: Sequence[str], root: Path = Path("/")) -> Environment:
    """Look at this machine; what it does not tell is None.

    Args:
        command: as in `sys.argv`.
        root: where /proc, /sys and /etc are.
    """
    facts = _cpu_facts(root)
    cpu = _cpu_name(root, facts)
    gpus, cuda_driver = _gpus(root)
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    return Environment(
        command=_shown(command),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=_commit(_CHECKOUT),
        machine=gpus[0].split(", ")[0] if gpus else cpu,
        cpu=cpu,
        cores=usable_cores(root),
        threads_per_core=_threads_per_core(root),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        memory_mib=_memory_mib(root),
        system=_system(root),
        governor=read_text(root / CPUS / "cpu0/cpufreq/scaling_governor"),
        power_mode=_power_mode() if is_tegra(root) else None,
        is_virtual=_is_virtual(root, flags),
        gpus=gpus,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=_versions(root, cuda_driver),
        load_before=_load(root),
        settings=_settings(os.environ),
    )


# The command and the checkout.


def _shown(command: Sequence[str]) -> str:
    script, *arguments = command
    name = _name(script)
    shown = ["python", f"benchmarks/{name}"] if (_CHECKOUT / "benchmarks" / name).is_file() else [name]
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        shown.append(f"{flag}={_name(value)}" if equals and flag.startswith("-") else _name(argument))
    return shlex.join(shown)


def _name(path: str) -> str:
    """The last part of a path of any system; other text as it is. A home folder has the user's name."""
    with contextlib.suppress(RuntimeError):  # A user without a home.
        if Path(path) == Path.home():
            return "~"
    return PurePosixPath(path.replace("\\", "/")).name if re.search(r"[/\\]", path) else path


def _commit(checkout: Path) -> str | None:
    # Installed into a folder of another project's checkout, this would be that one's commit.
    top = _answer("git", "-C", str(checkout), "rev-parse", "--show-toplevel")
    commit = _answer("git", "-C", str(checkout), "rev-parse", "--short", "HEAD")
    if top is None or commit is None or Path(top).resolve() != checkout:
        return None
    is_changed = _answer("git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if is_changed else commit


def _answer(program: str, *arguments: str) -> str | None:
    """What a program prints; None where there is none, or it fails."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


# The processor.


def _cpu_facts(root: Path) -> dict[str, str]:
    """What /proc/cpuinfo says, of the last core where they differ."""
    return dict(re.findall(r"(?m)^([^\n:]*?)\s*: (.*)$", read_text(root / "proc/cpuinfo") or ""))


def _cpu_name(root: Path, facts: Mapping[str, str]) -> str:
    board = read_text(root / "proc/device-tree/model")
    # On Arm the model's name is that of the instruction set, where there is one.
    if "CPU part" in facts:
        part = int(facts["CPU implementer"], 16), int(facts["CPU part"], 16)
        core = _ARM_CORES.get(part, f"Arm implementer {part[0]:#x}, part {part[1]:#x}")
        return f"{core} ({board})" if board else core
    if name := facts.get("model name"):
        return " ".join(name.split())
    return board or _cpu_name_elsewhere() or platform.processor() or platform.machine() or "unknown"


def _cpu_name_elsewhere() -> str | None:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
        except OSError:
            return None
    return _answer("sysctl", "-n", "machdep.cpu.brand_string") if sys.platform == "darwin" else None


def usable_cores(root: Path = Path("/")) -> int:
    """Those that the system lets this process use, and no more than the whole ones of a container's share of time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [share for folder in _control_groups(root, "cpu") if (share := _share_of_time(folder)) is not None]
    return max(1, min([cores, *map(math.floor, shares)]))


def _share_of_time(group: Path) -> float | None:
    """Cores' worth; for example cpu.max of version 2 says `200000 100000`, or `max 100000` without a limit."""
    quota, _, period = (read_text(group / "cpu.max") or "").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        return int(quota) / int(period)
    microseconds, span = read_number(group / "cpu.cfs_quota_us"), read_number(group / "cpu.cfs_period_us")
    return microseconds / span if microseconds is not None and microseconds > 0 and span else None


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups of both versions that this process is in: each may set a limit."""
    mount = root / "sys/fs/cgroup"
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if number == "0":
            top = mount
        elif controller in names.split(","):
            top = mount / controller
        else:
            continue
        folder = top / group.lstrip("/")
        # Within a container the group's path is that of the host, and the limits are at the top.
        yield from (folder, *(parent for parent in folder.parents if parent == top or top in parent.parents))


def _threads_per_core(root: Path) -> int | None:
    siblings = read_text(root / CPUS / "cpu0/topology/thread_siblings_list")
    if siblings:
        # For example `0,64` or `0-1`.
        spans = [span.split("-") for span in siblings.split(",")]
        return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
    try:
        psutil = importlib.import_module("psutil")
    except ImportError:
        return None
    threads, cores = psutil.cpu_count(), psutil.cpu_count(logical=False)
    return threads // cores if threads and cores else None


def _load(root: Path) -> float | None:
    """In a container both figures are the host's."""
    load = read_number(root / "proc/loadavg")
    if load is None and hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
    cores = len(re.findall(r"(?m)^cpu\d", read_text(root / "proc/stat") or "")) or os.cpu_count() or 1
    return load / cores if load is not None else None


# The rest of the machine.


def _memory_mib(root: Path) -> float:
    """All of it, or as much as the container may use; 0 where it is not known."""
    found = re.search(r"(?m)^MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo") or "")
    total = int(found[1]) / 1024 if found else _memory_mib_elsewhere()
    limits = [
        limit / 2**20
        for folder in _control_groups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := read_number(folder / name)) is not None
    ]
    return min([total, *limits])


def _memory_mib_elsewhere() -> float:
    if sys.platform == "win32":
        kib = ctypes.c_ulonglong()
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kib))
        return kib.value / 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def _system(root: Path) -> str:
    release = f"{platform.system()} {platform.release()}"
    if named := re.search(r'(?m)^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release") or ""):
        release = f"{named[1]}, {release}"
    is_container = any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv"))
    return f"{release}, in a container" if is_container else release


def _is_virtual(root: Path, flags: Sequence[str]) -> bool | None:
    if "hypervisor" in flags or (root / "proc/device-tree/hypervisor").exists():
        return True
    dmi = [read_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    if any(dmi):
        return bool(_HYPERVISORS.search("\n".join(filter(None, dmi))))
    if sys.platform == "darwin":
        return {"0": False, "1": True}.get(_answer("sysctl", "-n", "kern.hv_vmm_present") or "")
    return False if flags else None


def _power_mode() -> str | None:
    """For example `15W`, of `NV Power Mode: 15W` and its number; older releases say the fan's mode before it."""
    found = re.search(r"NV Power Mode: ?(\S+)", _answer("nvpmodel", "-q") or "")
    return found[1] if found else None


def _gpus(root: Path) -> tuple[tuple[str, ...], str | None]:
    """One line for each GPU, and the newest CUDA that the driver knows."""
    lines: tuple[str, ...] = ()
    cuda = None
    try:
        nvml = Nvml()
    except (ImportError, OSError):
        pass
    else:
        lines, cuda = nvml.descriptions(), nvml.cuda_driver()
        nvml.close()
    board = read_text(root / "proc/device-tree/model")
    if is_tegra(root) and board:
        release = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release") or "")
        lines = (f"{board}, Jetson Linux {release[1]}.{release[2]}" if release else board, *lines)
    return lines, cuda


def _versions(root: Path, cuda_driver: str | None) -> dict[str, str]:
    """Of what is installed, read without importing it."""
    found = {"i2i": __version__}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if cuda_driver is not None:
        found["CUDA of the driver"] = cuda_driver
    if cuda := re.search(
        r'"cuda" *: *\{[^}]*"version" *: *"([\d.]+)"', _first_text(root, "usr/local/cuda/version.json")
    ):
        found["CUDA"] = cuda[1]
    header = _first_text(root, "usr/include/cudnn_version.h", "usr/include/*/cudnn_version.h")
    parts = dict(re.findall(r"#define CUDNN_(MAJOR|MINOR|PATCHLEVEL) (\d+)", header))
    if len(parts) == 3:
        found["cuDNN"] = ".".join(parts[part] for part in ("MAJOR", "MINOR", "PATCHLEVEL"))
    return found


def _first_text(root: Path, *patterns: str) -> str:
    return next((text for pattern in patterns for path in root.glob(pattern) if (text := read_text(path))), "")


def _settings(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that change speed. Of libraries only the names, of other paths nothing."""
    found = {name: value for name, value in sorted(variables.items()) if _SETTINGS.fullmatch(name)}
    for name, value in found.items():
        if name == "LD_PRELOAD":
            found[name] = " ".join(_name(path) for path in re.split(r"[\s:]+", value) if path)
        elif re.search(r"[/\\]", value):
            found[name] = "a path"
    return found
