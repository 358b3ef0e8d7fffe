"""`make faults`: injects every fault that is known and prints which of them the commands survive as promised.

A test says which fault it injects with `@pytest.mark.fault(NUMBER)`. A fault without a test, or whose tests were all
skipped, does not count as passed.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

FAULTS = {
    1: "camera that is not there",
    2: "camera unplugged, and back",
    3: "network camera refuses the connection",
    4: "network camera accepts and stays silent",
    5: "network camera: wrong password, no such stream",
    6: "connection drops in mid-stream",
    7: "stream stalls, connection stays open",
    8: "camera is back with another picture size",
    9: "picture size changes within a stream",
    10: "damaged frames in a stream",
    11: "damaged region of a video file",
    12: "video file that is truncated, empty or text",
    13: "end of a file",
    14: "camera states a senseless frame rate",
    15: "picture folder: empty, unreadable, colliding names",
    16: "truncated JPEG",
    17: "picture bomb",
    18: "model far slower than the source",
    19: "sink or client that takes nothing",
    20: "disk full while writing",
    21: "output folder missing or read-only",
    22: "SIGINT during a video",
    23: "SIGTERM during a video",
    24: "SIGKILL while writing",
    25: "Ctrl-C while the source is blocked",
    26: "odd or changing picture size at a sink",
    27: "ONNX file that is empty, garbage or text",
    28: "ONNX with data outside its folder",
    29: "model with unexpected inputs and outputs",
    30: "model returns NaN or infinity",
    31: "device that is asked for is missing",
    32: "plan of another version or device, or altered",
    33: "out of memory at start and while running",
    34: "checkpoint with code inside",
    35: "truncated or altered weights",
    36: "SIGKILL during a checkpoint",
    37: "disk full at a checkpoint",
    38: "loss is NaN",
    39: "resumed with other settings",
    40: "one rank of a training dies",
    41: "page: foreign host or origin, no token, slow and many clients",
    42: "URL with an odd password",
    43: "no display, or OpenCV without windows",
    44: "packages that overwrite each other",
    45: "settings file with a typo",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", action="store_true", help="print which faults are survived")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fault-table") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table(), "fault-table")


def pytest_itemcollected(item: pytest.Item) -> None:
    unknown = {number for mark in item.iter_markers("fault") for number in mark.args} - FAULTS.keys()
    if unknown:
        raise pytest.UsageError(f"{item.nodeid}: no such fault: {sorted(unknown)}")
    # Properties travel with the report from the process of a worker to the one that prints.
    item.user_properties += [("fault", number) for mark in item.iter_markers("fault") for number in mark.args]


class _Table:
    def __init__(self) -> None:
        self._outcomes: dict[int, list[str]] = defaultdict(list)
        self._reasons: dict[int, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        for name, number in report.user_properties:
            if name == "fault":
                self._outcomes[number].append(report.outcome)
                if report.skipped:
                    self._reasons[number].add(str(report.longrepr[2]))

    def _verdict(self, number: int) -> str:
        outcomes = self._outcomes[number]
        if "failed" in outcomes:
            return "FAIL"
        return "pass" if "passed" in outcomes else "NOT SHOWN"

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if any(self._verdict(number) != "pass" for number in FAULTS):
            session.exitstatus = session.exitstatus or 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("faults")
        for number, case in FAULTS.items():
            outcomes = self._outcomes[number]
            counts = f"{outcomes.count('passed')} of {len(outcomes)} tests"
            reasons = "; ".join(sorted(self._reasons[number]))
            terminalreporter.write_line(
                f"{number:>3}  {case:<62} {self._verdict(number):<10} {counts}{f'  ({reasons})' if reasons else ''}"
            )
