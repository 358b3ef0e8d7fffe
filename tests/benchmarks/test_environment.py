"""What a report says of the machine: on planted files of other machines, and on this one.

`recorded/README.md` says where the recordings are from.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import psutil
import pytest

from i2i_runtime.card import decode
from measuring import environment as module
from measuring.environment import environment
from measuring.record import Environment

RECORDED = Path(__file__).parent / "recorded"
Plant = Callable[[Mapping[str, object]], None]


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def plant(root) -> Plant:
    def write(files: Mapping[str, object]) -> None:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return write


@pytest.fixture
def program(tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """Puts a program that prints a text into PATH."""

    def put(name: str, output: str) -> None:
        text = tmp_path / f"{name}.txt"
        text.write_text(output)
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat '{text}'\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return put


class TestThisMachine:
    def test_is_described_wholly(self):
        before = datetime.now(timezone.utc).replace(microsecond=0)
        here = environment(["benchmarks/latency.py"])
        assert here.cpu
        assert here.machine
        assert 1 <= here.cores <= len(os.sched_getaffinity(0))
        assert 0 < here.memory_mib <= psutil.virtual_memory().total / 2**20 + 1
        assert here.python == f"CPython {sys.version.split()[0]}"
        assert before <= datetime.fromisoformat(here.date) <= datetime.now(timezone.utc)
        assert {"i2i", "numpy"} <= here.versions.keys()

    def test_can_be_written_and_read(self):
        here = environment(["latency.py"])
        assert decode(Environment, json.loads(json.dumps(asdict(here))), "a file") == here

    def test_is_described_without_a_heavy_import(self):
        code = "import sys; from measuring.environment import environment; environment(['x']); print(*sys.modules)"
        path = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
        )
        assert not {"torch", "onnx", "onnxruntime", "openvino", "cv2"} & set(done.stdout.split())

    def test_is_not_named(self, tmp_path, monkeypatch):
        home = tmp_path / "alice"
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("OMP_TOOL_LIBRARIES", f"{home}/tool.so")
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_alice")
        monkeypatch.setenv("LD_PRELOAD", "")
        command = [
            f"{home}/latency.py",
            "--engine",
            f"{home}/zebra.onnx",
            f"--json={home}/out.json",
            "--data",
            str(home),
        ]
        text = json.dumps(asdict(environment(command)))
        assert "alice" not in text
        assert str(tmp_path) not in text


class TestCommand:
    @pytest.mark.parametrize(
        ("command", "shown"),
        [
            (["benchmarks/pipeline.py"], "python benchmarks/pipeline.py"),
            (["/opt/i2i/benchmarks/pipeline.py", "--frames", "30"], "python benchmarks/pipeline.py --frames 30"),
            (["other.py", "--engine", "/data/zebra.onnx"], "other.py --engine zebra.onnx"),
            (["other.py", "--json=../out/a.json"], "other.py --json=a.json"),
            (["other.py", r"--json=C:\out\a.json"], "other.py --json=a.json"),
            (["other.py", "town/test/*.png"], "other.py '*.png'"),
            (["other.py", "my zebra.onnx"], "other.py 'my zebra.onnx'"),
            (["other.py", "--sizes", "256,512"], "other.py --sizes 256,512"),
        ],
    )
    def test_is_as_typed_without_folders(self, root, command, shown):
        assert environment(command, root).command == shown


class TestCommit:
    @pytest.fixture
    def checkout(self, tmp_path, monkeypatch) -> Path:
        checkout = tmp_path / "checkout"
        checkout.mkdir()
        monkeypatch.setattr(module, "_CHECKOUT", checkout)
        (checkout / "file").write_text("one")
        self.git(checkout, "init", "-q")
        self.git(checkout, "add", "file")
        self.git(checkout, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "first")
        return checkout

    def git(self, checkout: Path, *arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def test_of_an_unchanged_checkout(self, checkout, root):
        commit = environment(["x"], root).commit
        assert commit is not None
        assert re.fullmatch(r"[0-9a-f]{7,}", commit)
        assert self.git(checkout, "rev-parse", "HEAD").startswith(commit)

    def test_of_a_changed_one_has_a_plus(self, checkout, root):
        (checkout / "file").write_text("two")
        assert (environment(["x"], root).commit or "").endswith("+")

    def test_results_that_lie_about_are_no_change(self, checkout, root):
        (checkout / "results.json").write_text("{}")
        assert not (environment(["x"], root).commit or "+").endswith("+")

    def test_is_not_that_of_a_checkout_around_it(self, checkout, root, monkeypatch):
        inner = checkout / "site-packages"
        inner.mkdir()
        monkeypatch.setattr(module, "_CHECKOUT", inner)
        assert environment(["x"], root).commit is None

    def test_without_git_is_unknown(self, checkout, root, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert environment(["x"], root).commit is None


class TestJetson:
    @pytest.fixture(autouse=True)
    def nano(self, plant) -> None:
        plant(
            {
                "proc/device-tree/compatible": "nvidia,p3450-0000\0nvidia,jetson-nano\0nvidia,tegra210\0",
                "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
                "proc/cpuinfo": (RECORDED / "cpuinfo/nano.txt").read_text(),
                "etc/nv_tegra_release": (RECORDED / "nv_tegra_release").read_text(),
            }
        )

    def test_has_the_name_of_its_board(self, root):
        found = environment(["x"], root)
        assert found.machine == "NVIDIA Jetson Nano Developer Kit"
        assert found.gpus[0] == "NVIDIA Jetson Nano Developer Kit, Jetson Linux 36.4.7"
        assert found.cpu == "Cortex-A57 (NVIDIA Jetson Nano Developer Kit)"
        assert found.instructions == ("asimd",)
        assert found.is_virtual is False

    def test_a_name_of_the_instruction_set_is_no_name_of_the_processor(self, root, plant):
        plant({"proc/cpuinfo": (RECORDED / "cpuinfo/tx2.txt").read_text()})
        assert environment(["x"], root).cpu.startswith("Cortex-A57 ")

    def test_a_core_that_is_not_known_has_its_numbers(self, root, plant):
        plant({"proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x99\nCPU part\t: 0xabc\n"})
        assert environment(["x"], root).cpu.startswith("Arm implementer 0x99, part 0xabc")

    @pytest.mark.parametrize("board", ["agx-xavier", "agx-thor"])
    def test_power_mode(self, root, program, board):
        program("nvpmodel", (RECORDED / f"nvpmodel/{board}.txt").read_text())
        assert environment(["x"], root).power_mode == "MAXN"

    def test_power_mode_that_cannot_be_asked_is_unknown(self, root, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert environment(["x"], root).power_mode is None


class TestProcessor:
    @pytest.fixture(autouse=True)
    def plenty(self, monkeypatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    @pytest.mark.parametrize(
        ("groups", "files", "cores"),
        [
            ("0::/", {}, 8),
            ("0::/", {"cpu.max": "max 100000"}, 8),
            ("0::/", {"cpu.max": "200000 100000"}, 2),
            ("0::/", {"cpu.max": "350000 100000"}, 3),
            ("0::/", {"cpu.max": "50000 100000"}, 1),
            ("0::/user.slice/a", {"cpu.max": "max 100000", "user.slice/cpu.max": "400000 100000"}, 4),
            ("0::/of/the/host", {"cpu.max": "200000 100000"}, 2),
            ("0::/user.slice/a", {"other.slice/cpu.max": "100000 100000"}, 8),
            ("4:cpu,cpuacct:/docker/1f", {"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}, 8),
            ("4:cpu,cpuacct:/docker/1f", {"cpu/cpu.cfs_quota_us": 600000, "cpu/cpu.cfs_period_us": 100000}, 6),
        ],
    )
    def test_cores_are_no_more_than_a_container_may_use(self, root, plant, groups, files, cores):
        plant({"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})
        assert environment(["x"], root).cores == cores

    @pytest.mark.parametrize(("siblings", "threads"), [("0", 1), ("0,64", 2), ("0-1", 2), ("0-3", 4)])
    def test_threads_of_a_core(self, root, plant, siblings, threads):
        plant({"sys/devices/system/cpu/cpu0/topology/thread_siblings_list": siblings})
        assert environment(["x"], root).threads_per_core == threads

    def test_name_and_instructions_of_a_pc(self, root, plant):
        flags = "fpu sse4_2 avx2 hypervisor avx512f amx_int8 avx512_vnni"
        plant({"proc/cpuinfo": f"processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) Platinum\nflags\t\t: {flags}\n"})
        plant({"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"})
        found = environment(["x"], root)
        assert found.cpu == "Intel(R) Xeon(R) Platinum"
        assert found.instructions == ("avx2", "avx512f", "avx512_vnni", "amx_int8")
        assert found.governor == "powersave"
        assert found.is_virtual is True

    def test_load_is_a_share_of_the_cores_of_the_machine(self, root, plant):
        cores = "".join(f"cpu{number} 1 1 1 1 1 1 1 1 0 0\n" for number in range(16))
        plant({"proc/loadavg": "4.00 3.00 2.00 1/200 4711", "proc/stat": f"cpu  1 1 1 1 1 1 1 1 0 0\n{cores}intr 1"})
        assert environment(["x"], root).load_before == 0.25


class TestTheRest:
    @pytest.mark.parametrize(
        ("vendor", "product", "is_virtual"),
        [
            ("QEMU", "Standard PC (Q35 + ICH9, 2009)", True),
            ("Microsoft Corporation", "Virtual Machine", True),
            ("Microsoft Corporation", "Surface Laptop 5", False),
            ("Google", "Google Compute Engine", True),
            ("Amazon EC2", "c7g.4xlarge", True),
            ("Amazon EC2", "c7g.metal", False),
            ("Dell Inc.", "PowerEdge R750", False),
        ],
    )
    def test_a_virtual_machine_is_known_by_its_board(self, root, plant, vendor, product, is_virtual):
        plant({"sys/class/dmi/id/sys_vendor": vendor, "sys/class/dmi/id/product_name": product})
        assert environment(["x"], root).is_virtual is is_virtual

    def test_memory_is_that_of_the_machine(self, root, plant):
        plant({"proc/meminfo": "MemTotal:       16384000 kB\nMemFree: 1 kB"})
        assert environment(["x"], root).memory_mib == 16000

    @pytest.mark.parametrize(
        ("groups", "file", "limit", "mib"),
        [
            ("0::/", "memory.max", 4 * 2**30, 4096),
            ("0::/", "memory.max", "max", 16000),
            ("7:memory:/docker/1f", "memory/memory.limit_in_bytes", 2 * 2**30, 2048),
            ("7:memory:/docker/1f", "memory/memory.limit_in_bytes", 9223372036854771712, 16000),
        ],
    )
    def test_memory_is_no_more_than_a_container_may_use(self, root, plant, groups, file, limit, mib):
        plant({"proc/meminfo": "MemTotal:       16384000 kB", "proc/self/cgroup": groups})
        plant({f"sys/fs/cgroup/{file}": limit})
        assert environment(["x"], root).memory_mib == mib

    @pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
    def test_system(self, root, plant, mark):
        plant({"etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"'})
        assert re.fullmatch(r"Ubuntu 22\.04\.5 LTS, Linux \S+", environment(["x"], root).system)
        plant({mark: ""})
        assert environment(["x"], root).system.endswith(", in a container")

    def test_versions_of_cuda_and_cudnn_that_come_with_the_system(self, root, plant):
        plant({"usr/local/cuda/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.11"}}'})
        header = "#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 3\n#define CUDNN_PATCHLEVEL 0\n#define CUDNN_VERSION (1)"
        plant({"usr/include/aarch64-linux-gnu/cudnn_version.h": header})
        versions = environment(["x"], root).versions
        assert (versions["CUDA"], versions["cuDNN"]) == ("12.6.11", "9.3.0")

    def test_versions_of_packages_that_are_installed(self, root, tmp_path, monkeypatch):
        about = tmp_path / "packages/onnxruntime_gpu-1.23.2.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.23.2\n")
        monkeypatch.syspath_prepend(about.parent)
        assert environment(["x"], root).versions["onnxruntime-gpu"] == "1.23.2"

    def test_settings_that_change_speed(self, root, monkeypatch):
        for name in [name for name in os.environ if re.match("OMP_|CUDA_|LD_PRELOAD", name)]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2:/opt/libtcmalloc.so")
        monkeypatch.setenv("OMP_SECRET_FILE", "/home/alice/x")
        monkeypatch.setenv("EDITOR", "vi")
        settings = environment(["x"], root).settings
        assert settings["OMP_NUM_THREADS"] == "4"
        assert settings["CUDA_VISIBLE_DEVICES"] == "1"
        assert settings["LD_PRELOAD"] == "libjemalloc.so.2 libtcmalloc.so"
        assert settings["OMP_SECRET_FILE"] == "a path"
        assert "EDITOR" not in settings

    def test_a_machine_that_tells_nothing_is_described_as_far_as_it_goes(self, root, monkeypatch):
        monkeypatch.setenv("PATH", "")
        monkeypatch.setitem(sys.modules, "psutil", None)
        monkeypatch.setitem(sys.modules, "pynvml", None)
        found = environment(["x"], root)
        assert (found.is_virtual, found.governor, found.threads_per_core, found.power_mode) == (None, None, None, None)
        assert found.gpus == ()
        assert found.cpu
