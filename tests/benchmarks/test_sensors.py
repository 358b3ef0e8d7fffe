"""Sensors on recorded outputs, on planted files of /proc and /sys, and on this machine.

`recorded/README.md` says where the recordings are from.
"""

# ruff: noqa: N802  (names of NVML)

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measuring.sensors import Sensors
from measuring.sensors.base import Levels, Sensor, Totals
from measuring.sensors.host import ProcStat, Psutil
from measuring.sensors.nvml import Nvml, throttle_reasons
from measuring.sensors.rails import total_power
from measuring.sensors.tegrastats import parse
from measuring.sensors.window import Window

RECORDED = Path(__file__).parent / "recorded"
LINES = {path.stem: path.read_text() for path in sorted((RECORDED / "tegrastats").glob("*.txt"))}

Plant = Callable[[Mapping[str, object]], None]


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def plant(root) -> Plant:
    """Writes files of /proc and /sys, by path."""

    def write(files: Mapping[str, object]) -> None:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return write


@pytest.fixture
def jetson(plant) -> None:
    plant({"proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,tegra234\0"})


@pytest.fixture
def without_tegrastats(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def tegrastats(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Puts a program into PATH that says lines as tegrastats does, given what its loop does; says where its pid is."""

    def put(body: str) -> Path:
        program, pid = tmp_path / "bin/tegrastats", tmp_path / "pid"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho $$ > '{pid}'\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return pid

    return put


def saying(board: str) -> str:
    # As the real one, the program itself meets a closed pipe, and not a child of it.
    return f"line=$(cat '{RECORDED / 'tegrastats' / board}.txt'); while :; do echo \"$line\"; sleep 0.05; done"


def is_alive(pid: Path) -> bool:
    return psutil.pid_exists(int(pid.read_text())) and psutil.Process(int(pid.read_text())).status() != "zombie"


class TestLinesOfTegrastats:
    @pytest.mark.parametrize(
        ("board", "power_of", "watts"),
        [
            ("nano", "POM_5V_IN", 1.022),
            ("nano-user", "POM_5V_IN", 0.900),
            ("tx2", "VDD_IN", 5.297),
            ("xavier-nx", "VDD_IN", 4.067),
            ("agx-xavier", "sum of GPU, CPU, SOC, CV, VDDRQ, SYS5V", 3.346),
            ("orin-nano", "VDD_IN", 12.479),
            ("orin-nano-user", "VDD_IN", 4.824),
            ("orin-nx", "VDD_IN", 17.946),
            ("agx-orin", "sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0", 12.377),
            ("agx-orin-user", "sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0", 10.370),
            ("agx-thor", "VIN", 87.426),
        ],
    )
    def test_power_now_of_the_whole_module(self, board, power_of, watts):
        power = parse(LINES[board]).power
        assert power is not None
        assert power.of == power_of
        assert power.watts == pytest.approx(watts)

    @pytest.mark.parametrize(
        ("board", "utilisation", "megahertz", "celsius"),
        [
            ("nano", 0.0, 76, 36.0),
            ("nano-user", 0.0, None, 41.0),
            ("tx2", 0.0, 114, 39.5),
            ("xavier-nx", 0.62, 306, 43.0),
            ("agx-xavier", 0.0, 318, 37.5),
            ("orin-nano", 0.63, 621, 53.343),
            ("orin-nano-user", 0.0, None, 49.031),
            ("orin-nx", 0.84, 713, 63.5),
            ("agx-orin", 0.0, 305, 47.812),
            ("agx-orin-user", 0.0, None, 37.75),
            ("agx-thor", None, None, 62.906),
        ],
    )
    def test_the_gpu(self, board, utilisation, megahertz, celsius):
        line = parse(LINES[board])
        assert (line.utilisation, line.gpu_mhz) == (utilisation, megahertz)
        assert line.temperatures_c["gpu"] == celsius

    def test_every_recording_has_a_row_above(self):
        boards = {"nano", "tx2", "xavier-nx", "agx-xavier", "orin-nano", "orin-nx", "agx-orin", "agx-thor"}
        assert set(LINES) == boards | {"nano-user", "orin-nano-user", "agx-orin-user"}

    def test_a_cluster_of_the_gpu_that_sleeps_has_no_clock(self):
        assert parse("RAM 1/2MB GR3D_FREQ 50%@[611,0] gpu@51C").gpu_mhz == 611

    def test_a_zone_that_is_switched_off_has_no_temperature(self):
        assert parse("RAM 1/2MB CV0@-256C GPU@49.2C").temperatures_c == {"gpu": 49.2}

    @given(st.sampled_from(sorted(LINES)), st.integers(0, 600), st.integers(0, 600), st.text(max_size=20))
    def test_a_mangled_line_is_read_as_far_as_it_goes(self, board, begin, end, rubbish):
        line = parse(LINES[board][:begin] + rubbish + LINES[board][end:])
        assert line.utilisation is None or line.utilisation >= 0


def test_memory_of_agx_orin_is_counted_once():
    rails = {"VDD_GPU_SOC": 3150.0, "VDD_CPU_CV": 14312.0, "VIN_SYS_5V0": 4968.0, "VDDQ_VDD2_1V8AO": 1091.0}
    power = total_power(rails)
    assert power is not None
    assert power.watts == pytest.approx(22.430)
    assert "VDDQ" not in power.of


class TestTegrastats:
    def test_a_window_on_an_orin_nano(self, jetson, root, tegrastats):
        tegrastats(saying("orin-nano"))
        with Sensors("cuda", root) as sensors:
            window = sensors.window()
            with window:
                time.sleep(0.5)
        readings = window.readings()
        assert "tegrastats" in sensors_of(root, "cuda")
        assert (readings.power_w, readings.power_of) == (pytest.approx(12.479), "VDD_IN")
        assert (readings.clock_mhz, readings.utilisation) == (pytest.approx(621), pytest.approx(0.63))
        assert readings.temperature_c == 53.343

    def test_for_the_processor_power_is_the_same_and_temperature_its_own(self, jetson, root, tegrastats):
        tegrastats(saying("orin-nano"))
        with Sensors("cpu", root) as sensors, sensors.window() as window:
            time.sleep(0.4)
        readings = window.readings()
        assert readings.power_w == pytest.approx(12.479)
        assert readings.temperature_c == 53.968
        assert readings.utilisation is None

    def test_ends_as_the_sensors_are_closed(self, jetson, root, tegrastats):
        pid = tegrastats(saying("nano"))
        with Sensors("cuda", root):
            assert is_alive(pid)
        assert not is_alive(pid)

    def test_ends_as_the_benchmark_is_killed(self, jetson, root, tegrastats):
        pid = tegrastats(saying("nano"))
        code = (
            "import pathlib, sys, time; from measuring.sensors import Sensors\n"
            "Sensors('cuda', pathlib.Path(sys.argv[1])); print('ready', flush=True); time.sleep(60)"
        )
        path = os.pathsep.join(filter(None, sys.path))
        benchmark = subprocess.Popen(
            [sys.executable, "-c", code, str(root)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert benchmark.stdout is not None
        with benchmark.stdout as output:
            assert output.readline() == "ready\n"
            benchmark.kill()
            benchmark.wait()
        assert comes_true(lambda: not is_alive(pid))

    def test_what_it_said_before_the_window_opened_is_not_in_it(self, jetson, root, tegrastats):
        tegrastats(f"cat '{RECORDED}/tegrastats/orin-nano.txt'; sleep 60")
        with Sensors("cuda", root) as sensors, sensors.window() as window:
            time.sleep(0.3)
        assert window.readings().power_w is None

    @pytest.mark.parametrize("body", ["exit 1", "sleep 60"], ids=["fails", "says nothing"])
    def test_without_a_word_from_it_the_rails_are_read(self, jetson, root, plant, tegrastats, body):
        pid = tegrastats(body)
        plant(NANO_RAILS)
        began = time.monotonic()
        with Sensors("cuda", root) as sensors:
            assert "tegrastats" not in sensors.names
            assert "INA3221" in sensors.names
            assert not is_alive(pid)
        assert time.monotonic() - began < 30, "what it has started is not waited for"


def sensors_of(root: Path, device: str) -> list[str]:
    with Sensors(device, root) as sensors:
        return sensors.names


def comes_true(condition: Callable[[], bool], patience_s: float = 20.0) -> bool:
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


INA3221X = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
NANO_RAILS = {
    f"{INA3221X}/rail_name_0": "POM_5V_IN",
    f"{INA3221X}/in_power0_input": 2875,
    f"{INA3221X}/rail_name_1": "POM_5V_GPU",
    f"{INA3221X}/in_power1_input": 614,
    f"{INA3221X}/rail_name_2": "POM_5V_CPU",
    f"{INA3221X}/in_power2_input": 573,
}
INA3221 = "sys/bus/i2c/drivers/ina3221"
AGX_ORIN_RAILS = {
    f"{INA3221}/1-0040/hwmon/hwmon3/in1_label": "VDD_GPU_SOC",
    f"{INA3221}/1-0040/hwmon/hwmon3/in1_input": 19000,
    f"{INA3221}/1-0040/hwmon/hwmon3/curr1_input": 400,
    f"{INA3221}/1-0040/hwmon/hwmon3/in2_label": "VDD_CPU_CV",
    f"{INA3221}/1-0040/hwmon/hwmon3/in2_input": 19000,
    f"{INA3221}/1-0040/hwmon/hwmon3/curr2_input": 100,
    f"{INA3221}/1-0040/hwmon/hwmon3/in3_label": "VIN_SYS_5V0",
    f"{INA3221}/1-0040/hwmon/hwmon3/in3_input": 5000,
    f"{INA3221}/1-0040/hwmon/hwmon3/curr3_input": 900,
    f"{INA3221}/1-0040/hwmon/hwmon3/in7_label": "sum of shunt voltages",
    f"{INA3221}/1-0040/hwmon/hwmon3/in7_input": 2800,
    f"{INA3221}/1-0041/hwmon/hwmon4/in1_label": "NC",
    f"{INA3221}/1-0041/hwmon/hwmon4/in1_input": 0,
    f"{INA3221}/1-0041/hwmon/hwmon4/curr1_input": 0,
    f"{INA3221}/1-0041/hwmon/hwmon4/in2_label": "VDDQ_VDD2_1V8AO",
    f"{INA3221}/1-0041/hwmon/hwmon4/in2_input": 4968,
    f"{INA3221}/1-0041/hwmon/hwmon4/curr2_input": 80,
}


@pytest.mark.usefixtures("jetson", "without_tegrastats")
class TestFilesOfAJetson:
    @pytest.mark.parametrize(
        ("files", "power_of", "watts"),
        [
            (NANO_RAILS, "POM_5V_IN", 2.875),
            (AGX_ORIN_RAILS, "sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0", 14.0),
        ],
        ids=["L4T 32", "L4T 35"],
    )
    def test_power_rails(self, root, plant, files, power_of, watts):
        plant(files)
        readings = read(root, "cuda")
        assert (readings.power_of, readings.power_w) == (power_of, pytest.approx(watts))

    def test_a_rail_that_cannot_be_read_is_no_part_of_the_sum(self, root, plant):
        plant({**AGX_ORIN_RAILS, f"{INA3221}/1-0040/hwmon/hwmon3/curr2_input": ""})
        readings = read(root, "cuda")
        assert (readings.power_of, readings.power_w) == ("sum of VDD_GPU_SOC, VIN_SYS_5V0", pytest.approx(12.1))

    def test_a_sum_that_lacks_a_rail_for_a_moment_is_not_told(self, root, plant):
        plant(AGX_ORIN_RAILS)
        with Sensors("cuda", root) as sensors:
            plant({f"{INA3221}/1-0040/hwmon/hwmon3/curr2_input": ""})
            with sensors.window() as window:
                time.sleep(0.01)
        assert window.readings().power_w is None

    @pytest.mark.parametrize("name", ["57000000.gpu", "17000000.gv11b", "17000000.ga10b", "17000000.gpu", "gpu-gpc-0"])
    def test_clock_and_load_of_the_gpu(self, root, plant, name):
        plant(
            {
                f"sys/class/devfreq/{name}/cur_freq": 612000000,
                f"sys/class/devfreq/{name}/max_freq": 918000000,
                f"sys/class/devfreq/{name}/available_frequencies": "306000000 612000000 918000000 1020000000",
                f"sys/class/devfreq/{name}/device/load": 842,
                "sys/class/devfreq/15340000.vic/cur_freq": 115200000,
            }
        )
        readings = read(root, "cuda")
        assert (readings.clock_mhz, readings.clock_max_mhz) == (pytest.approx(612), 1020)
        assert readings.utilisation == pytest.approx(0.842)

    @pytest.mark.parametrize("counter", ["oc2", "oc3"])
    def test_over_current_in_the_window_is_throttling_and_before_it_is_not(self, root, plant, counter):
        folder = "sys/class/hwmon/hwmon3"
        plant({f"{folder}/name": "soctherm_oc", **{f"{folder}/oc{n}_event_cnt": 15 * n for n in (1, 2, 3)}})
        with Sensors("cuda", root) as sensors:
            with sensors.window() as quiet:
                pass
            with sensors.window() as busy:
                plant({f"{folder}/{counter}_event_cnt": 46})
        assert quiet.readings().can_see_throttling
        assert quiet.readings().throttled == ()
        assert busy.readings().throttled == ("over-current",)

    def test_under_voltage_is_a_reason_of_its_own(self, root, plant):
        plant({"sys/class/hwmon/hwmon3/oc1_event_cnt": 0})
        with Sensors("cuda", root) as sensors, sensors.window() as window:
            plant({"sys/class/hwmon/hwmon3/oc1_event_cnt": 1})
        assert window.readings().throttled == ("under-voltage",)

    @pytest.mark.parametrize(("state", "throttled"), [(0, ()), (1, ("thermal",))])
    def test_throttle_alerts(self, root, plant, state, throttled):
        plant(
            {
                "sys/class/thermal/cooling_device0/type": "pwm-fan",
                "sys/class/thermal/cooling_device0/cur_state": 3,
                "sys/class/thermal/cooling_device9/type": "gpu-throttle-alert",
                "sys/class/thermal/cooling_device9/cur_state": state,
            }
        )
        readings = read(root, "cuda")
        assert (readings.can_see_throttling, readings.throttled) == (True, throttled)

    @pytest.mark.parametrize(("temperature", "throttled"), [(84999, ()), (85000, ("thermal",))])
    def test_without_alerts_the_temperatures_from_which_the_kernel_lowers_clocks(
        self, root, plant, temperature, throttled
    ):
        zone = "sys/class/thermal/thermal_zone0"
        plant(
            {
                f"{zone}/type": "cpu-thermal",
                f"{zone}/temp": temperature,
                f"{zone}/trip_point_0_type": "critical",
                f"{zone}/trip_point_0_temp": 110000,
                f"{zone}/trip_point_1_type": "passive",
                f"{zone}/trip_point_1_temp": 85000,
                f"{zone}/trip_point_2_type": "active",
                f"{zone}/trip_point_2_temp": 40000,
            }
        )
        assert read(root, "cpu").throttled == throttled

    def test_memory_of_a_process_for_root(self, root, plant):
        plant({"sys/kernel/debug/nvmap/iovmm/clients": (RECORDED / "nvmap_clients.txt").read_text()})
        with Sensors("cuda", root) as sensors:
            assert sensors.device_memory_mib(7979) == pytest.approx(23525644 / 1024)
            assert sensors.device_memory_mib(797) is None

    def test_a_driver_that_knows_only_the_name_of_the_gpu_is_no_sensor(self, root, nvml):
        nvml.gpus[0].name = "Orin (nvgpu)"
        with Sensors("cuda", root) as sensors:
            assert "NVML" not in sensors.names
            assert sensors.notes == []


def read(root: Path, device: str):
    """What a short window sees."""
    with Sensors(device, root) as sensors, sensors.window() as window:
        time.sleep(0.01)
    return window.readings()


def open_while(sensors: Sensors, work: Callable[[], None]) -> tuple[Window, float, float]:
    """A window that was open for 0.3 s, in which something was done; the least and most seconds it can have been."""
    window = sensors.window()
    before = time.perf_counter()
    with window:
        opened = time.perf_counter()
        time.sleep(0.3)
        work()
        closing = time.perf_counter()
    return window, closing - opened, time.perf_counter() - before


def test_throttling_of_a_raspberry_pi(root, plant):
    zone = "sys/class/thermal/thermal_zone0"
    plant({"proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"})
    plant({f"{zone}/type": "cpu-thermal", f"{zone}/temp": 86000})
    plant({f"{zone}/trip_point_0_type": "passive", f"{zone}/trip_point_0_temp": 85000})
    assert read(root, "cpu").throttled == ("thermal",)


class TestFilesOfAPc:
    RAPL = "sys/class/powercap"

    def test_energy_of_the_packages_and_nothing_twice(self, root, plant):
        zones = {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "core",
            "intel-rapl:1": "psys",
            "intel-rapl-mmio:0": "package-0",
        }
        plant({f"{self.RAPL}/{zone}/name": name for zone, name in zones.items()})
        plant({f"{self.RAPL}/{zone}/energy_uj": 1_000_000 for zone in zones})
        plant({f"{self.RAPL}/{zone}/max_energy_range_uj": 262_143_328_850 for zone in zones})
        with Sensors("cpu", root) as sensors:
            window, least_s, most_s = open_while(
                sensors, lambda: plant({f"{self.RAPL}/{zone}/energy_uj": 16_000_000 for zone in zones})
            )
        readings = window.readings()
        assert readings.power_of == "CPU package"
        assert 15 / most_s <= readings.power_w <= 15 / least_s

    def test_energy_whose_counter_has_started_anew(self, root, plant):
        zone = f"{self.RAPL}/intel-rapl:0"
        plant({f"{zone}/name": "package-0", f"{zone}/max_energy_range_uj": 65_532_610_987})
        plant({f"{zone}/energy_uj": 65_532_610_987 - 2_000_000})
        with Sensors("cpu", root) as sensors:
            window, least_s, most_s = open_while(sensors, lambda: plant({f"{zone}/energy_uj": 4_000_000}))
        assert 6 / most_s <= window.readings().power_w <= 6 / least_s

    def test_energy_of_two_packages(self, root, plant):
        for zone in (f"{self.RAPL}/intel-rapl:{number}" for number in (0, 1)):
            plant(
                {f"{zone}/name": f"package-{zone[-1]}", f"{zone}/energy_uj": 0, f"{zone}/max_energy_range_uj": 10**12}
            )
        assert read(root, "cpu").power_of == "2 CPU packages"

    def test_energy_that_only_root_may_read_is_named_with_what_helps(self, root, plant):
        plant({f"{self.RAPL}/intel-rapl:0/name": "package-0"})
        with Sensors("cpu", root) as sensors:
            assert any("sudo chmod a+r /sys/class/powercap" in note for note in sensors.notes)
            assert "RAPL" not in sensors.names

    def test_clock_is_the_mean_of_the_cores_that_we_may_use(self, root, plant):
        cores = sorted(os.sched_getaffinity(0))
        for number, core in enumerate(cores):
            folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
            plant({f"{folder}/scaling_cur_freq": 3_000_000 + 100_000 * number, f"{folder}/cpuinfo_max_freq": 5_100_000})
        plant({"sys/devices/system/cpu/cpu9999/cpufreq/scaling_cur_freq": 1})
        readings = read(root, "cpu")
        seen = range(len(cores))[:: -(-len(cores) // 16)]
        assert readings.clock_mhz == pytest.approx(3000 + 100 * sum(seen) / len(seen))
        assert readings.clock_max_mhz == 5100

    def test_clock_of_a_virtual_machine(self, root, plant):
        plant({"proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2400.000\n\nprocessor\t: 1\ncpu MHz\t\t: 2600.000\n"})
        readings = read(root, "cpu")
        assert (readings.clock_mhz, readings.clock_max_mhz) == (pytest.approx(2500), None)

    @pytest.mark.parametrize(
        ("chip", "inputs", "celsius"),
        [
            ("coretemp", {"temp1": ("Package id 0", 61000), "temp2": ("Core 0", 99000)}, 61),
            ("k10temp", {"temp1": ("Tctl", 70125), "temp3": ("Tccd1", 71000)}, 71),
            ("nvme", {"temp1": ("Composite", 40000)}, None),
        ],
    )
    def test_temperature_of_the_processor(self, root, plant, chip, inputs, celsius):
        plant({"sys/class/hwmon/hwmon2/name": chip})
        for name, (label, thousandths) in inputs.items():
            plant({f"sys/class/hwmon/hwmon2/{name}_label": label, f"sys/class/hwmon/hwmon2/{name}_input": thousandths})
        assert read(root, "cpu").temperature_c == celsius

    def test_temperature_of_a_zone(self, root, plant):
        plant({"sys/class/thermal/thermal_zone7/type": "x86_pkg_temp", "sys/class/thermal/thermal_zone7/temp": 55000})
        assert read(root, "cpu").temperature_c == 55

    def test_a_processor_that_was_too_hot_in_the_window(self, root, plant):
        folder = "sys/devices/system/cpu/cpu0/thermal_throttle"
        plant({f"{folder}/package_throttle_count": 320794, f"{folder}/core_throttle_count": 7})
        with Sensors("cpu", root) as sensors:
            with sensors.window() as cool:
                pass
            with sensors.window() as hot:
                plant({f"{folder}/package_throttle_count": 320795})
        assert (cool.readings().can_see_throttling, cool.readings().throttled) == (True, ())
        assert hot.readings().throttled == ("thermal",)

    def test_zones_of_acpi_say_nothing_of_throttling(self, root, plant):
        zone = "sys/class/thermal/thermal_zone0"
        plant({f"{zone}/temp": 27800, f"{zone}/trip_point_0_type": "passive", f"{zone}/trip_point_0_temp": 20000})
        assert not read(root, "cpu").can_see_throttling


class TestTimeOfTheProcessor:
    STAT = "cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0"

    def test_shares_of_all_cores(self, root, plant):
        plant({"proc/stat": self.STAT.format(user=1000, idle=5000, steal=10)})
        with Sensors("cuda", root) as sensors, sensors.window() as window:
            plant({"proc/stat": self.STAT.format(user=1040, idle=5050, steal=20)})
        readings = window.readings()
        assert readings.stolen == pytest.approx(0.1)
        assert readings.busy_elsewhere == pytest.approx(0.4)

    def test_our_descendants_are_not_elsewhere(self, root, plant):
        def process(pid: int, parent: int, name: str, *ticks: int) -> None:
            times = " ".join(map(str, ticks))
            plant({f"proc/{pid}/stat": f"{pid} ({name}) S {parent} 1 1 0 -1 4194304 1 0 0 0 {times} 20 0 1 0"})

        plant({"proc/stat": self.STAT.format(user=500, idle=0, steal=0)})
        process(10, 1, "python", 50, 10, 5, 5)
        process(11, 10, "odd) S 1 (name", 100, 20, 0, 0)
        process(12, 11, "grandchild", 7, 3, 0, 0)
        process(13, 1, "stranger", 200, 0, 0, 0)
        counters = ProcStat(root / "proc", pid=10).totals().counters
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        assert counters["cpu_s"] * ticks_per_s == 500
        assert counters["elsewhere_s"] * ticks_per_s == 500 - 70 - 120 - 10

    def test_a_child_of_ours_is_not_busy_elsewhere(self):
        ours_s, _ = burnt_by(subprocess.Popen([sys.executable, "-c", BURN]).wait)
        assert ours_s >= 0.9 * BURNT_S

    def test_a_process_that_has_left_us_is(self, tmp_path):
        done = tmp_path / "done"
        orphan = f"import os\nif os.fork(): os._exit(0)\nos.setsid()\n{BURN}\nopen({str(done)!r}, 'w').close()"

        def run() -> None:
            subprocess.run([sys.executable, "-c", orphan], check=True)
            assert comes_true(done.exists, patience_s=60)

        ours_s, elsewhere_s = burnt_by(run)
        assert elsewhere_s >= 0.9 * BURNT_S
        # Starting Python is ours.
        assert ours_s < 0.5 * BURNT_S

    def test_psutil_counts_as_proc_does(self):
        mine, theirs = ProcStat(Path("/proc"), os.getpid()).totals().counters, Psutil(psutil).totals().counters
        assert theirs == pytest.approx(mine, abs=2.0)

    def test_without_proc_and_psutil_a_note_says_what_to_install(self, root, monkeypatch):
        monkeypatch.setitem(sys.modules, "psutil", None)
        with Sensors("cuda", root) as sensors, sensors.window() as window:
            assert "what else the machine does: pip install psutil" in sensors.notes
        assert window.readings().busy_elsewhere is None


BURNT_S = 1.0
BURN = f"import time\nwhile time.process_time() < {BURNT_S}: pass"


def burnt_by(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU time that were ours, and elsewhere, by what psutil says of the whole machine meanwhile."""

    def busy_s() -> float:
        times = psutil.cpu_times()
        return sum((times.user, times.nice, times.system, times.irq, times.softirq))

    sensor = ProcStat(Path("/proc"), os.getpid())
    before, busy = sensor.totals().counters["elsewhere_s"], busy_s()
    run()
    after, busy_after = sensor.totals().counters["elsewhere_s"], busy_s()
    return busy_after - busy - (after - before), after - before


class FakeGpu:
    """What NVML says of a GPU, as a test sets it."""

    def __init__(self, name: str = "NVIDIA GeForce RTX 4090", uuid: str = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"):
        self.name, self.uuid, self.index = name, uuid, 0
        self.millijoules: int | None = 1_000_000
        self.bits = 1
        self.used = 500 * 2**20
        self.processes: dict[int, int | None] = {}
        self.has_new_reasons = True
        self.is_mig = False


class FakeNvml(ModuleType):
    """pynvml with GPUs that a test sets; notes what it is asked. The errors are the real ones."""

    NVMLError = pynvml.NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.gpus = [FakeGpu()]
        self.asked: set[str] = set()
        self.open = 0

    def __getattribute__(self, name: str) -> object:
        if name.startswith("nvml"):
            self.asked.add(name)
        return super().__getattribute__(name)

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion(self):
        return 13000

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetName(self, gpu):
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu):
        return gpu.uuid

    def nvmlDeviceGetIndex(self, gpu):
        return self._unless_mig(gpu, self.gpus.index(gpu))

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu):
        return self._unless_mig(gpu, 450_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        return self._unless_mig(gpu, gpu.millijoules)

    def nvmlDeviceGetClockInfo(self, gpu, kind):
        return self._unless_mig(gpu, {pynvml.NVML_CLOCK_SM: 2520}[kind])

    def nvmlDeviceGetMaxClockInfo(self, gpu, kind):
        return self._unless_mig(gpu, {pynvml.NVML_CLOCK_SM: 3105}[kind])

    def nvmlDeviceGetTemperature(self, gpu, kind):
        return self._unless_mig(gpu, {pynvml.NVML_TEMPERATURE_GPU: 67}[kind])

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu):
        if not gpu.has_new_reasons:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return self._unless_mig(gpu, gpu.bits)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu):
        return self._unless_mig(gpu, gpu.bits)

    def nvmlDeviceGetMemoryInfo(self, gpu):
        return SimpleNamespace(used=gpu.used)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes.items()]

    def _unless_mig(self, gpu, value):
        if gpu.is_mig or value is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value


@pytest.fixture
def nvml(monkeypatch) -> Iterator[FakeNvml]:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    yield fake
    assert fake.open == 0, "the library is given back"


MIB = 2**20


class TestNvml:
    def test_a_window(self, root, nvml):
        with Sensors("cuda", root) as sensors:
            assert sensors.names[0] == "NVML"

            def work() -> None:
                nvml.gpus[0].millijoules += 60_000

            window, least_s, most_s = open_while(sensors, work)
        readings = window.readings()
        assert readings.power_of == "GPU 0"
        assert 60 / most_s <= readings.power_w <= 60 / least_s
        assert (readings.clock_mhz, readings.clock_max_mhz) == (pytest.approx(2520), 3105)
        # NVML's utilisation is that of up to a second, in which others had their turn, too.
        assert (readings.temperature_c, readings.utilisation) == (67, None)
        assert (readings.can_see_throttling, readings.throttled) == (True, ())

    def test_of_a_gpu_that_does_not_count_its_energy_the_power_is_not_known(self, root, nvml):
        nvml.gpus[0].millijoules = None
        assert read(root, "cuda").power_w is None

    @pytest.mark.parametrize(
        ("reasons", "words"),
        [
            ([], set()),
            (["GpuIdle"], set()),
            (["ApplicationsClocksSetting", "SyncBoost", "DisplayClockSetting"], set()),
            (["SwPowerCap"], {"power cap"}),
            (["SwThermalSlowdown"], {"thermal"}),
            (["HwSlowdown", "HwThermalSlowdown"], {"thermal"}),
            (["HwSlowdown", "HwPowerBrakeSlowdown"], {"power brake"}),
            (["HwSlowdown"], {"hardware slowdown"}),
            (["SwPowerCap", "SwThermalSlowdown", "GpuIdle"], {"power cap", "thermal"}),
        ],
    )
    def test_which_reasons_are_throttling(self, reasons, words):
        bits = sum(getattr(pynvml, f"nvmlClocksEventReason{reason}") for reason in reasons)
        assert throttle_reasons(bits) == words

    @pytest.mark.parametrize("has_new_reasons", [True, False], ids=["driver 535", "driver 470"])
    def test_throttling_is_flagged(self, root, nvml, has_new_reasons):
        nvml.gpus[0].has_new_reasons = has_new_reasons
        nvml.gpus[0].bits = pynvml.nvmlClocksEventReasonHwThermalSlowdown
        readings = read(root, "cuda")
        assert (readings.can_see_throttling, readings.throttled) == (True, ("thermal",))

    @pytest.mark.parametrize(
        ("environment", "index"),
        [
            ({}, 0),
            ({"CUDA_VISIBLE_DEVICES": "1"}, 1),
            ({"CUDA_VISIBLE_DEVICES": "1,0"}, 1),
            ({"CUDA_VISIBLE_DEVICES": "GPU-bbbb"}, 1),
            ({"CUDA_VISIBLE_DEVICES": "GPU-bbbb2222,GPU-aaaa1111"}, 1),
            ({"CUDA_VISIBLE_DEVICES": ""}, None),
            ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
            ({"CUDA_VISIBLE_DEVICES": "2"}, None),
            ({"CUDA_VISIBLE_DEVICES": "GPU-cccc"}, None),
        ],
    )
    def test_the_gpu_is_the_one_that_cuda_shows_first(self, root, nvml, monkeypatch, environment, index):
        nvml.gpus = [FakeGpu(uuid="GPU-aaaa1111"), FakeGpu(uuid="GPU-bbbb2222")]
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        expected = f"GPU {index}" if index is not None else None
        assert read(root, "cuda").power_of == expected

    def test_of_different_gpus_cuda_calls_the_fastest_device_0(self, root, nvml, monkeypatch):
        nvml.gpus = [FakeGpu("NVIDIA T400", uuid="GPU-aaaa1111"), FakeGpu(uuid="GPU-bbbb2222")]
        with Sensors("cuda", root) as sensors:
            assert "NVML" not in sensors.names
            assert any("CUDA_DEVICE_ORDER=PCI_BUS_ID" in note for note in sensors.notes)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        assert read(root, "cuda").power_of == "GPU 0"

    def test_of_a_mig_instance_only_the_memory_is_known(self, root, nvml, monkeypatch):
        uuid = "MIG-3d1ab02e-5f3a-5cf2-8d5d-9c7a1f8c4d11"
        nvml.gpus = [FakeGpu(uuid=uuid)]
        nvml.gpus[0].is_mig = True
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuid)
        with Sensors("cuda", root) as sensors, sensors.window() as window:
            nvml.gpus[0].processes = {42: 900 * MIB}
            assert sensors.device_memory_mib(42) == 900
        readings = window.readings()
        assert (readings.power_w, readings.clock_mhz, readings.temperature_c) == (None, None, None)
        assert (readings.utilisation, readings.can_see_throttling) == (None, False)

    def test_memory_of_a_process(self, root, nvml):
        nvml.gpus[0].processes = {41: 300 * MIB, 42: 900 * MIB}
        with Sensors("cuda", root) as sensors:
            assert sensors.device_memory_mib(42) == 900
            assert sensors.device_memory_mib(43) is None

    def test_memory_in_a_container_whose_host_numbers_processes_otherwise(self, root, nvml):
        gpu = nvml.gpus[0]
        gpu.processes = {70001: 300 * MIB}
        with Sensors("cuda", root) as sensors:
            for pid, host_pid in ((42, 70002), (43, 70003)):
                with sensors.loading(pid):
                    gpu.processes[host_pid] = pid * MIB
            gpu.processes[70002] = 900 * MIB
            assert sensors.device_memory_mib(42) == 900
            assert sensors.device_memory_mib(43) == 43

    @pytest.mark.parametrize("told", [0, None], ids=["container", "Windows"])
    def test_memory_that_nvml_does_not_tell_is_what_the_gpu_has_less(self, root, nvml, told):
        gpu = nvml.gpus[0]
        with Sensors("cuda", root) as sensors:
            with sensors.loading(42):
                gpu.processes, gpu.used = {42: told}, gpu.used + 700 * MIB
            with sensors.loading(43):
                gpu.processes, gpu.used = {42: told, 43: told}, gpu.used + 100 * MIB
            assert sensors.device_memory_mib(42) == 700
            assert sensors.device_memory_mib(43) == 100

    def test_all_it_asks_for_is_in_the_real_library(self, root, nvml):
        nvml.gpus[0].millijoules = None
        nvml.gpus[0].has_new_reasons = False
        with Sensors("cuda", root) as sensors, sensors.loading(42), sensors.window():
            sensors.device_memory_mib(42)
        library = Nvml()
        assert library.descriptions() == ("NVIDIA GeForce RTX 4090, driver 580.65.06, power limit 450 W",)
        assert library.cuda_driver() == "13.0"
        library.visible_device({"CUDA_VISIBLE_DEVICES": "GPU-8"})
        library.visible_device({"CUDA_VISIBLE_DEVICES": "MIG-8"})
        library.close()
        functions = {name for name in vars(FakeNvml) if name.startswith("nvml")}
        assert nvml.asked == functions, "the test asks for everything"
        assert {name for name in nvml.asked if not callable(getattr(pynvml, name, None))} == set()

    def test_where_there_is_no_driver_one_line_says_so(self, root):
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            with Sensors("cuda", root) as sensors, sensors.window() as window:
                assert any(note.startswith("GPU power, clocks and memory: NVML") for note in sensors.notes)
                assert sensors.device_memory_mib(os.getpid()) is None
                with sensors.loading(os.getpid()):
                    pass
            assert window.readings().power_w is None
        else:
            pynvml.nvmlShutdown()
            pytest.skip("there is a driver")

    def test_a_real_gpu(self):
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            pytest.skip("needs an NVIDIA driver")
        pynvml.nvmlShutdown()
        with Sensors("cuda") as sensors, sensors.window() as window:
            time.sleep(1)
        readings = window.readings()
        assert "NVML" in sensors.names or sensors.notes
        assert readings.temperature_c is None or 10 < readings.temperature_c < 110
        assert readings.clock_mhz is None or readings.clock_mhz <= (readings.clock_max_mhz or 0)

    def test_without_the_package_a_note_says_what_to_install(self, root, monkeypatch):
        monkeypatch.setitem(sys.modules, "pynvml", None)
        with Sensors("cuda", root) as sensors:
            assert "GPU power, clocks and memory: pip install nvidia-ml-py" in sensors.notes


class Told(Sensor):
    """Says what a test lets it."""

    def __init__(self, name: str, **quantities: float) -> None:
        self.name = self.power_of = name
        self.quantities = quantities
        self.reasons: frozenset[str] = frozenset()

    def levels(self) -> Levels:
        return Levels(quantities=dict(self.quantities), throttled=self.reasons)

    def totals(self) -> Totals:
        return Totals()


class Dear(Told):
    """Takes 50 ms of the processor to read."""

    looks = 0

    def levels(self) -> Levels:
        self.looks += 1
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        return Levels()


class TestWindow:
    def test_means_are_over_the_time_that_it_was_open(self):
        sensor = Told("one")
        window = Window([sensor])
        least, most = [], []
        for power, nap_s in ((100.0, 0.7), (400.0, 0.3)):
            sensor.quantities = {"power_w": power}
            before = time.perf_counter()
            with window:
                opened = time.perf_counter()
                time.sleep(nap_s)
                least.append(time.perf_counter() - opened)
            most.append(time.perf_counter() - before)
            sensor.quantities = {"power_w": 9999.0}
            time.sleep(0.3)

        def mean(low_s: float, high_s: float) -> float:
            return (100 * low_s + 400 * high_s) / (low_s + high_s)

        assert mean(most[0], least[1]) <= window.readings().power_w <= mean(least[0], most[1])

    def test_looks_several_times_a_second(self):
        sensor = Told("one", temperature_c=50.0)
        with Window([sensor]) as window:
            time.sleep(0.5)
            sensor.quantities = {"temperature_c": 90.0}
            time.sleep(0.5)
            sensor.quantities = {"temperature_c": 60.0}
            time.sleep(0.5)
        assert window.readings().temperature_c == 90

    def test_looks_while_a_part_of_a_turn_goes_on(self):
        sensor = Told("one")
        with Window([sensor]) as window:
            sensor.reasons = frozenset({"thermal"})
            time.sleep(0.15)
            sensor.reasons = frozenset()
        assert window.readings().throttled == ("thermal",)

    def test_a_sensor_that_is_dear_to_read_is_not_looked_at_in_each_part(self):
        sensor = Dear("one")
        window, looks = Window([sensor]), 0
        for _ in range(5):
            with window:
                before = sensor.looks
                time.sleep(0.12)
                looks += sensor.looks - before
        assert looks == 1

    def test_the_first_sensor_that_tells_a_quantity_is_believed(self):
        readings = window_of(Told("silent"), Told("board", power_w=10.0), Told("card", power_w=7.0, clock_mhz=900.0))
        assert (readings.power_of, readings.power_w) == ("board", pytest.approx(10))
        assert readings.clock_mhz == pytest.approx(900)

    def test_reasons_of_all_times_are_united(self):
        sensor = Told("one")
        window = Window([sensor])
        for reason in ("thermal", "power cap", "thermal"):
            sensor.reasons = frozenset({reason})
            with window:
                pass
        sensor.reasons = frozenset({"power brake"})
        assert window.readings().throttled == ("power cap", "thermal")

    def test_one_that_was_never_open_tells_nothing(self):
        assert Window([Told("one", power_w=1.0)]).readings().power_w is None

    def test_looking_costs_less_than_a_hundredth_of_a_core(self):
        with Sensors("cpu") as sensors, sensors.window():
            used, began = time.process_time(), time.perf_counter()
            time.sleep(2)
            share = (time.process_time() - used) / (time.perf_counter() - began)
        assert share < 0.01

    def test_a_sensor_that_is_dear_to_read_is_looked_at_less_often(self):
        sensor = Dear("one")
        with Window([sensor]):
            sensor.looks = 0
            time.sleep(2)
            looks = sensor.looks
        # 50 ms each, of which a hundredth of the time allows one in 5 s.
        assert looks == 1

    def test_what_this_machine_tells(self):
        with Sensors("cpu") as sensors, sensors.window() as window:
            names = sensors.names
            time.sleep(0.3)
        readings = window.readings()
        assert "/proc/stat" in names
        assert readings.stolen is not None
        assert 0 <= readings.stolen <= 1
        assert readings.busy_elsewhere is not None
        assert 0 <= readings.busy_elsewhere <= 1

    def test_a_machine_without_anything_to_read(self, root, monkeypatch):
        monkeypatch.setitem(sys.modules, "psutil", None)
        with Sensors("cpu", root) as sensors:
            assert sensors.names == []
            with sensors.window() as window:
                pass
            assert sensors.device_memory_mib(1) is None
        assert window.readings().power_w is None


def window_of(*sensors: Sensor):
    with Window(sensors) as window:
        pass
    return window.readings()


def test_closing_twice_does_nothing(jetson, root, tegrastats):
    tegrastats(saying("nano"))
    sensors = Sensors("cuda", root)
    sensors.close()
    sensors.close()


def test_a_tegrastats_that_dies_leaves_the_sensors_usable(jetson, root, tegrastats):
    pid = tegrastats(saying("nano"))
    with Sensors("cuda", root) as sensors:
        os.kill(int(pid.read_text()), signal.SIGKILL)
        assert comes_true(lambda: not is_alive(pid))
        with sensors.window() as window:
            pass
        assert window.readings().power_w is None
