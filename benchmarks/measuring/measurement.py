"""From the ways to run a model to a record: peaks, turns, answers, roofs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from i2i_export.parity import Inputs
from i2i_runtime.digest import file_sha256
from i2i_runtime.engines.cards import card_of
from i2i_runtime.errors import I2IError
from measuring import probes
from measuring.advice import advise
from measuring.quality import examples_of, qualities, questions
from measuring.record import Environment, Model, Peak, Record, Row, Size, Turn, Workload
from measuring.roofline import roof, workload
from measuring.rounds import Measured, OnProgress, Pace, measure
from measuring.sensors import Sensors
from measuring.spread import summary
from measuring.ways import Subject, Wanted, Way, Ways

_PROBING = Pace(starts=1, rounds=3, seconds=0.3, runs=3, warm_up_s=3.0)
_LIBRARIES = {
    "TensorRT-RTX": ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
    "TensorRT": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "ONNX Runtime": ("onnxruntime", "onnxruntime-gpu"),
    "OpenVINO": ("openvino",),
    "PyTorch": ("torch",),
    "NumPy": ("numpy",),
}
"""The end of a yardstick's name, and the distributions that may be meant."""


def measure_ways(
    subject: Subject,
    wanted: Wanted,
    ways: Ways,
    pace: Pace,
    sensors: Mapping[str, Sensors],
    folder: Path,
    machine: Environment,
    on_progress: OnProgress,
) -> Record:
    """Measure all ways, and put everything that a record holds together.

    Args:
        subject: what is measured.
        wanted: the device and its threads.
        ways: from `find_ways`.
        pace: how long it takes.
        sensors: by device.
        folder: for graphs of the probes.
        machine: as it was before anything of ours made it busy.
        on_progress: see `measure`.

    Raises:
        SourceError: no pictures where the user says.
    """
    asked = _questions(subject, ways)
    devices = dict.fromkeys(way.row.device for way in ways.ways)
    precisions = list(dict.fromkeys(way.row.precision for way in ways.ways))
    peaks: list[Peak] = []
    probing = replace(
        _PROBING,
        seconds=min(_PROBING.seconds, pace.seconds),
        warm_up_s=min(_PROBING.warm_up_s, pace.warm_up_s),
    )
    for device in devices:
        for probe in probes.probes(device, precisions, wanted.threads, folder):
            on_progress(f"what this machine can do: {probe.name}", 0.0)
            # One at a time: on a small box all of them would not fit into memory.
            (measured,) = measure([probe], probing).values()
            if measured.failure is None:
                peaks.append(probes.peak(probe, measured.turns))
            else:
                ways.left_out.append(f"what this machine can do, {probe.name}: {measured.failure}")
    yardstick = probes.yardstick(wanted.device, wanted.threads, folder)
    found: dict[str, Measured] = {}
    yardstick_turns: list[Turn] = []
    groups = list(dict.fromkeys((way.row.size, way.row.batch) for way in ways.ways))
    for number, group in enumerate(groups):
        # All sizes and batches at once would not fit into memory.
        same = [way.contestant for way in ways.ways if (way.row.size, way.row.batch) == group]
        together = measure(
            [*same, yardstick],
            pace,
            sensors=sensors,
            questions=asked,
            on_progress=_part_of(on_progress, number, len(groups)),
        )
        for measured in together.values():
            measured.turns = [
                replace(turn, start=turn.start + number * pace.starts, round=turn.round + number * pace.rounds)
                for turn in measured.turns
            ]
        of_yardstick = together.pop(yardstick.name)
        yardstick_turns += of_yardstick.turns
        if of_yardstick.failure is not None:
            ways.left_out.append(f"the yardstick, {yardstick.name}: {of_yardstick.failure}")
        found |= together
    workloads = _workloads(ways)
    answers = {name: measured.answers for name, measured in found.items()}
    qualities_found = qualities(ways.ways, asked, answers, subject.checkpoint is not None)
    rows = []
    for way in ways.ways:
        row = _row(way, found[way.contestant.name], workloads.get((way.row.size, way.row.batch)), peaks)
        rows.append(replace(row, quality=qualities_found.get(way.contestant.name)) if row.failure is None else row)
    return Record(
        environment=machine,
        model=_model(subject, ways),
        workloads=tuple(workloads.values()),
        peaks=tuple(peaks),
        rows=tuple(rows),
        yardstick=tuple(yardstick_turns),
        yardstick_name=yardstick.name,
        yardstick_device=yardstick.device,
        yardstick_version=_version(yardstick.name, machine),
        left_out=(*ways.left_out, *dict.fromkeys(note for each in sensors.values() for note in each.notes)),
        advice=advise(rows, machine),
    )


def _part_of(on_progress: OnProgress, number: int, count: int) -> OnProgress:
    return lambda what, share: on_progress(what, (number + share) / count)


def _version(name: str, machine: Environment) -> str:
    """Of the library that a yardstick is named after."""
    library = name.rpartition(", ")[2].removesuffix(" CPU").removesuffix(" CUDA")
    known = _LIBRARIES[library]
    return next((machine.versions[one] for one in known if one in machine.versions), "")


def _questions(subject: Subject, ways: Ways) -> dict[str, list[Inputs]]:
    """The same pictures for all ways of a size."""
    asked: dict[str, list[Inputs]] = {}
    for size in dict.fromkeys(way.row.size for way in ways.ways):
        same = [way for way in ways.ways if way.row.size == size]
        assert same[0].card is not None
        examples = examples_of(subject, same[0].card, size)
        asked |= {way.contestant.name: questions(way, examples) for way in same}
    return asked


def _workloads(ways: Ways) -> dict[tuple[Size, int], Workload]:
    """By size and batch; empty without onnx."""
    if importlib.util.find_spec("onnx") is None:
        ways.left_out.append("the roof: onnx counts the operations, and is not installed; pip install 'i2i[tensorrt]'")
        return {}
    import onnx

    from i2i_export.cost import count

    found = {}
    for (size, batch), path in ways.graphs.items():
        model = onnx.load(path, load_external_data=False)
        card = card_of(path)
        precision = card.export.precision if card is not None and card.export is not None else "fp32"
        try:
            found[size, batch] = workload(count(model, size, batch), size, batch, precision)
        except I2IError as error:
            ways.left_out.append(f"the roof: its operations cannot be counted ({error})")
    return found


def _row(way: Way, measured: Measured, work: Workload | None, peaks: Sequence[Peak]) -> Row:
    """The row with what was measured."""
    if measured.failure is not None:
        return replace(way.row, failure=measured.failure)
    row = replace(
        way.row,
        load_s=tuple(measured.load_s),
        first_s=tuple(measured.first_s),
        warm_up_runs=tuple(measured.warm_up_runs),
        is_stable=measured.is_stable,
        turns=tuple(measured.turns),
        host_mib=measured.host_mib,
        device_mib=measured.device_mib,
        readings=measured.readings,
    )
    if work is None:
        return row
    return replace(row, roof=roof(summary(row.turns).p50, work, row.precision, _own_peaks(row, peaks)))


def _own_peaks(row: Row, peaks: Sequence[Peak]) -> list[Peak]:
    """Those that its library may reach; `build_plan` does not let TensorRT round to TF32."""
    return [
        peak
        for peak in peaks
        if peak.device == row.device and not (peak.is_tf32 and row.backend.startswith("tensorrt"))
    ]


def _model(subject: Subject, ways: Ways) -> Model:
    file = subject.engine or subject.checkpoint
    assert file is not None
    card = ways.ways[0].card
    assert card is not None
    width = card.generator.arguments.get("ngf")
    return Model(
        name=card.name,
        file=file.name,
        sha256=file_sha256(file),
        architecture=card.generator.name + (f", ngf {width}" if width else ""),
        is_trained=subject.is_trained,
    )
