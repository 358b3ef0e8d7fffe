"""The doctor on this machine, and on machines where something is broken.

A broken package is a module of the same name earlier on `sys.path`: each probe's own process gets it from there.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
from interpreter import python
from rich.console import Console

from i2i_runtime import doctor, h264
from i2i_runtime.doctor import Finding, Report, Section

PATIENCE = 60.0
"""Seconds for the machine of a test that does other things besides."""


def findings(report: Report) -> dict[str, Finding]:
    return {f.name: f for section in report.sections for f in section.findings}


@pytest.fixture(scope="module")
def here() -> Report:
    return doctor.examine(PATIENCE)


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Puts a module of the given source in the place of an installed one."""

    def put(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)

    monkeypatch.syspath_prepend(tmp_path)
    return put


@pytest.fixture
def only(monkeypatch):
    """Leaves the doctor these probes, so that a test of one fault costs no examination of everything."""

    def keep(*names: str) -> None:
        monkeypatch.setattr(doctor, "_PROBES", {name: doctor._PROBES[name] for name in names})

    return keep


def dist_info(folder: Path, name: str) -> None:
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


def test_the_report_names_every_part_of_the_machine(here):
    assert [section.name for section in here.sections] == [
        "Summary", "System", "Engines", "NVIDIA GPU", "Packages", "Pictures and video", "Cameras and display", "Disk",
    ]  # fmt: skip
    assert {"Python", "CPU", "cores", "memory", "OpenCV", "PyAV", "protocols", "display", "cache"} <= set(
        findings(here)
    )
    assert all(f"H.264 {name}" in findings(here) for name in doctor.H264_ENCODERS)


def test_a_model_really_runs_in_onnx_runtime(here):
    pytest.importorskip("onnxruntime")
    found = findings(here)

    assert found["ONNX Runtime"].value.startswith(sys.modules["onnxruntime"].__version__)
    assert found["ONNX Runtime on the CPU"] == Finding(name="ONNX Runtime on the CPU", value="a model runs")
    assert "ONNX Runtime on the CPU" in found["engines"].value


def test_openvino_says_what_its_devices_can_compute_in(here):
    pytest.importorskip("openvino")

    assert "FP32" in findings(here)["OpenVINO CPU"].value


def test_the_software_encoder_encodes_a_picture(here):
    assert findings(here)["H.264 libx264"].value == "encodes"


def test_each_encoder_that_a_video_can_be_written_with_is_tried():
    assert {*doctor.H264_ENCODERS} == {*h264.ENCODERS} - {"auto"}


def test_the_doctor_itself_loads_nothing_that_may_be_broken():
    loaded = python(
        "import sys; import i2i_runtime.doctor; print(*{'av', 'cv2', 'numpy', 'click', 'rich'} & {*sys.modules})"
    )

    assert loaded.stdout.strip() == "", loaded.stderr


def test_the_protocols_of_network_streams_are_there(here):
    assert findings(here)["protocols"].value == "rtsp, rtmp, http, https"


def test_the_report_survives_json(here):
    as_dict = here.as_dict()

    assert json.loads(json.dumps(as_dict)) == as_dict == {
        "sections": [
            {"name": s.name, "findings": [vars(f) for f in s.findings]} for s in here.sections
        ],
        "problems": len(here.problems),
    }  # fmt: skip


def test_what_is_shown_is_what_the_lines_say(here):
    out = io.StringIO()

    doctor.show(here, Console(file=out, width=40))

    # Square brackets are no markup, and a narrow terminal breaks no line.
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [line.rstrip() for line in here.lines()]


def test_the_report_keeps_the_home_folder_to_itself(here):
    assert not re.search(rf"{re.escape(str(Path.home()))}(?![\w.-])", "\n".join(here.lines()))


def test_nothing_wrong_is_exit_code_0_and_a_problem_6():
    def report(*verdicts):
        found = tuple(Finding(name="a", value="b", verdict=verdict) for verdict in verdicts)
        return Report(sections=(Section(name="s", findings=found),))

    assert report("ok", "note").exit_code == 0
    assert report("ok", "problem", "note").exit_code == 6
    assert report("ok", "note").lines()[-1] == "no problem found"
    assert report("problem", "problem").lines()[-1] == "2 problems found"


@pytest.mark.parametrize(
    ("secret", "published"),
    [
        ("{home}/models/a.onnx is broken", "~/models/a.onnx is broken"),
        ("{home}", "~"),
        ("{home}-of-another", "{home}-of-another"),
        ("/home/alice/venv/lib", "/home/USER/venv/lib"),
        ("/Users/Alice/x and /media/alice/stick", "/Users/USER/x and /media/USER/stick"),
        (r"C:\Users\Alice\venv", r"C:\Users\USER\venv"),
        ("rtsp://admin:hunter2@10.0.0.5/live refused", "rtsp://***@10.0.0.5/live refused"),
        ("a camera\x1b[2J\nof two lines", "a camera [2J of two lines"),
    ],
)
def test_what_people_paste_holds_no_name_and_no_password(secret, published, monkeypatch):
    monkeypatch.setattr(doctor, "_homes", lambda: ("/srv/somebody",))

    assert doctor._private(secret.format(home="/srv/somebody")) == published.format(home="/srv/somebody")


def test_two_wheels_that_overwrite_each_other_are_a_problem_with_the_commands_that_mend_it(tmp_path, plant, only):
    for name in ("onnxruntime", "onnxruntime-gpu", "opencv-python", "opencv-python-headless"):
        dist_info(tmp_path, name)
    only("packages")

    report = doctor.examine(PATIENCE)

    conflicts = [f for f in report.problems if f.name == "wheels"]
    assert [f.value for f in conflicts] == [
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
        "opencv-python and opencv-python-headless are both installed and overwrite each other",
    ]
    assert conflicts[0].advice.startswith("pip uninstall -y onnxruntime onnxruntime-gpu; then pip install 'i2i[gpu]'")
    assert conflicts[1].advice.startswith("pip uninstall -y opencv-python opencv-python-headless; then pip install")


def test_a_package_that_aborts_is_a_line_that_names_the_signal(plant, only):
    plant("onnxruntime", "import os, sys\nprint('bad CPU', file=sys.stderr, flush=True)\nos.abort()")
    only("onnxruntime", "system")

    report = doctor.examine(PATIENCE)

    found = findings(report)
    assert found["ONNX Runtime"].value == "its process was killed by SIGABRT (bad CPU)"
    assert found["ONNX Runtime"] in report.problems
    assert "CPU" in found


def test_a_package_that_hangs_is_a_line_and_the_examination_ends(plant, only):
    plant("openvino", "import time\ntime.sleep(600)")
    only("openvino")

    report = doctor.examine(1.0)

    assert findings(report)["OpenVINO"].value.startswith("no answer within 1 s: it hangs")
    assert findings(report)["OpenVINO"] in report.problems


def test_what_a_probe_said_before_its_package_died_is_kept(plant, only):
    plant(
        "openvino",
        "import os\n"
        "__version__ = '2026.0.0-1'\n"
        "class Core:\n"
        "    available_devices = ['CPU']\n"
        "    def get_property(self, device, name): os.abort()\n",
    )
    only("openvino")

    _, engines = doctor.examine(PATIENCE).sections

    assert [f.value for f in engines.findings] == ["2026.0.0, devices: CPU", "its process was killed by SIGABRT"]


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("raise OSError('libfoo.so: cannot open')", "failed (OSError: libfoo.so: cannot open)"),
        ("import sys\nsys.exit('no licence')", "failed (SystemExit: no licence)"),
        ("import os\nos._exit(0)", "its process ended with code 0"),
        ("import missing_thing", "failed (ModuleNotFoundError: No module named 'missing_thing')"),
        ("print('hello')\nimport missing_thing", "failed (ModuleNotFoundError: No module named 'missing_thing')"),
    ],
)
def test_a_broken_package_is_a_problem_with_its_reason(plant, only, source, value):
    plant("onnxruntime", source)
    only("onnxruntime")

    assert findings(doctor.examine(PATIENCE))["ONNX Runtime"].value == value


def test_no_engine_at_all_is_a_problem_with_what_to_install(plant, only):
    for name in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        plant(name, f"raise ModuleNotFoundError('not here', name={name!r})")
    only("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")

    report = doctor.examine(PATIENCE)

    assert report.exit_code == 6
    assert [f.value for f in report.problems] == ["no engine to run a model with"]
    assert report.problems[0].advice == "pip install 'i2i[cpu]', 'i2i[openvino]', or 'i2i[gpu]' for an NVIDIA GPU"
    _, engines = report.sections
    assert [(f.name, f.value, f.verdict) for f in engines.findings] == [
        (name, "not installed", "note") for name in ("ONNX Runtime", "OpenVINO", "TensorRT", "TensorRT-RTX")
    ]


def test_a_gpu_that_no_engine_can_use_is_a_problem():
    gpu = Finding(name="GPU 0", value="NVIDIA RTX A2000")
    loads = Finding(name="TensorRT", value="10.3.0 loads")
    cuda = Finding(name="CUDA", value="driver for CUDA 12.6")
    on_cpu = Finding(name="ONNX Runtime on the CPU", value="a model runs")

    def problems(engines, gpus):
        return [f.name for f in doctor._summary(engines, gpus) if f.verdict == "problem"]

    assert problems([on_cpu], [gpu]) == ["GPU"]
    assert problems([on_cpu, loads], [gpu]) == ["GPU"]
    assert problems([on_cpu, loads], [gpu, cuda]) == []
    assert problems([loads], []) == ["engines"]


def test_nvidia_smi_is_asked_for_the_gpus(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 PCIe, 570.86.10, 9.0, 81559 MiB, 81000 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    (found,) = doctor._driver_gpus()

    assert found.name == "GPU 0"
    assert found.value == ("NVIDIA H100 PCIe, driver 570.86.10, compute capability 9.0, 81000 MiB of 81559 MiB free")


def test_a_driver_that_does_not_fit_its_library_is_a_problem(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    (found,) = doctor._driver_gpus()

    assert (found.name, found.verdict) == ("nvidia-smi", "problem")
    assert found.value == "fails: Failed to initialize NVML: Driver/library version mismatch"


@pytest.mark.skipif(sys.platform != "linux", reason="V4L2 is Linux")
class TestCameras:
    @pytest.fixture
    def machine(self, tmp_path):
        for number, name, where in ((0, "Integrated Webcam", "pci0000:00"), (2, "OBS", "virtual")):
            device = tmp_path / "sys" / "devices" / where / "video4linux" / f"video{number}"
            device.mkdir(parents=True)
            (device / "name").write_text(f"{name}\n")
            link = tmp_path / "sys" / "class" / "video4linux" / f"video{number}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(device)
            (tmp_path / "dev").mkdir(exist_ok=True)
            (tmp_path / "dev" / f"video{number}").touch()
        return tmp_path

    def test_each_has_its_name(self, machine):
        found = {f.name: f.value for f in doctor.cameras(machine / "dev", machine / "sys")}

        assert found["/dev/video0"] == "Integrated Webcam"
        assert found["/dev/video2"] == "OBS (virtual)"
        assert found["v4l2loopback"].startswith("not loaded")

    def test_one_that_may_not_be_read_is_a_problem_of_groups(self, machine):
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        (machine / "dev" / "video0").chmod(0)

        first, *_ = doctor.cameras(machine / "dev", machine / "sys")

        assert (first.value, first.verdict) == ("Integrated Webcam: no permission", "problem")
        assert first.advice.startswith("sudo usermod -aG video")

    def test_a_machine_without_any_is_a_note(self, tmp_path):
        first, *_ = doctor.cameras(tmp_path, tmp_path)

        assert (first.name, first.value, first.verdict) == ("cameras", "none", "note")


def test_a_cache_that_is_no_folder_is_a_problem(tmp_path):
    (tmp_path / "file").touch()

    found = doctor._cache(tmp_path / "file" / "i2i")

    assert found.verdict == "problem"
    assert "I2I_CACHE" in found.advice


def test_a_cache_that_is_not_there_yet_is_empty_and_stays_so(tmp_path):
    found = doctor._cache(tmp_path / "a" / "i2i")

    assert (found.value, found.verdict) == (f"{tmp_path / 'a' / 'i2i'}, empty", "ok")
    assert not (tmp_path / "a").exists()


def test_a_forwarded_display_does_not_name_its_host(monkeypatch):
    monkeypatch.setenv("DISPLAY", "alices-laptop:10.0")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    (found,) = doctor._display()

    assert found.value == "X11 HOST:10.0"


def test_onnx_runtimes_log_says_which_library_is_missing():
    log = (
        "[E:onnxruntime:Default, provider_bridge_ort.cc:1744 TryGetProviderInfo_CUDA] onnxruntime::ProviderLibrary"
        "::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: "
        "libcublasLt.so.12: cannot open shared object file: No such file or directory\n"
        "[W:onnxruntime:Default, onnxruntime_pybind_state.cc:965] Failed to create CUDAExecutionProvider.\n"
    )

    assert doctor._cause(log) == "libcublasLt.so.12: cannot open shared object file: No such file or directory"
