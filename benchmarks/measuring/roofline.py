"""How near a way comes to what this machine can do (Williams, Waterman and Patterson 2009, Roofline, section 3).

A node takes at least as long as its operations at the measured peak of products, and at least as long as its bytes at
the measured speed of a copy: the longer of the two is its ideal time. Their sum is the model's. The paper takes the
longer of the two sums, which no run of one node after the other can reach.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from measuring.record import LayerCost, Peak, Precision, Roof, Size, Workload

if TYPE_CHECKING:
    from i2i_export.cost import Cost

_BYTES: dict[Precision, float] = {"fp32": 1.0, "fp16": 0.5, "bf16": 0.5, "int8": 0.25}
"""Of a value, as a share of FP32's."""
_INT8_KINDS = ("Conv",)
"""What `i2i-export --int8` quantises; all other nodes stay FP32."""
_FAR_PERCENT = 30.0
"""Of the ideal speed; further below it neither computing nor memory is what limits."""
_CALL_S = 50e-6
"""What starting a node may cost: 5 microseconds on a GPU, several times that where CPU threads are woken up."""


def workload(cost: Cost, size: Size, batch: int, precision: Precision = "fp32") -> Workload:
    """What one run has to do.

    Args:
        cost: counted at this size and batch.
        size: (height, width) in pixels.
        batch: pictures in a run.
        precision: of the graph that was counted.
    """
    alike = Counter((node.kind, node.macs, node.flops, node.bytes_read + node.bytes_written) for node in cost.nodes)
    layers = [
        LayerCost(kind=kind, nodes=nodes, macs=nodes * macs, flops=nodes * flops, bytes=nodes * moved)
        for (kind, macs, flops, moved), nodes in alike.items()
        if flops or moved
    ]
    return Workload(
        size=size,
        batch=batch,
        precision=precision,
        macs=cost.macs,
        published_macs=cost.published_macs,
        flops=cost.flops,
        bytes=cost.bytes,
        parameters=cost.parameters,
        parameter_bytes=cost.parameter_bytes,
        layers=tuple(sorted(layers, key=lambda layer: (layer.flops, layer.bytes), reverse=True)),
    )


def roof(median_s: float, work: Workload, precision: Precision, peaks: Sequence[Peak]) -> Roof | None:
    """Where a way stands below the roof.

    A precision that nothing here is quick in is held against FP32's peak: its values can always be computed in FP32.

    Args:
        median_s: of a run, in seconds.
        work: what a run has to do.
        precision: what it computes in; of `int8` the convolutions, as `i2i-export` makes them.
        peaks: those of its device.

    Returns:
        None without a measured product.
    """
    products, plain = _best_products(peaks, precision), _best_products(peaks, "fp32")
    if products is None:
        return None
    copy = max((peak for peak in peaks if peak.what == "copy"), key=lambda peak: peak.per_second, default=None)
    parts = [_part(layer, work.precision, precision, products, plain or products, copy) for layer in work.layers]
    ideal_s = sum(part.seconds for part in parts)
    flops_per_second = work.flops / median_s
    return Roof(
        flops_per_second=flops_per_second,
        intensity=work.flops / max(1.0, sum(part.bytes for part in parts)),
        percent_of_peak=100 * flops_per_second / products.per_second,
        ideal_s=ideal_s,
        percent_of_roof=100 * ideal_s / median_s,
        limit=_limit(median_s, parts, precision, products, copy),
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Layers in one precision on one machine."""

    kind: str
    nodes: int
    bytes: float
    computing_s: float
    moving_s: float
    """0 where no copy was measured."""

    @property
    def seconds(self) -> float:
        """Holds for each of the nodes, which are alike, and so for all of them."""
        return max(self.computing_s, self.moving_s)

    @property
    def is_computing(self) -> bool:
        return self.computing_s >= self.moving_s


def _best_products(peaks: Sequence[Peak], precision: Precision) -> Peak | None:
    """The highest peak of those that may be in the precision or in FP32."""
    able = [peak for peak in peaks if peak.what != "copy" and peak.precision in (precision, "fp32")]
    return max(able, key=lambda peak: peak.per_second, default=None)


def _part(
    layer: LayerCost, counted_in: Precision, precision: Precision, products: Peak, plain: Peak, copy: Peak | None
) -> _Part:
    moved = layer.bytes * _bytes(layer.kind, precision) / _bytes(layer.kind, counted_in)
    peak = products if precision != "int8" or layer.kind in _INT8_KINDS else plain
    return _Part(
        kind=layer.kind,
        nodes=layer.nodes,
        bytes=moved,
        computing_s=layer.flops / peak.per_second,
        moving_s=moved / copy.per_second if copy is not None else 0.0,
    )


def _bytes(kind: str, precision: Precision) -> float:
    """What a node of this kind moves, as a share of FP32's."""
    return _BYTES[precision] if precision != "int8" or kind in _INT8_KINDS else 1.0


def _limit(median_s: float, parts: Sequence[_Part], precision: Precision, products: Peak, copy: Peak | None) -> str:
    """What limits it, for a person."""
    ideal_s = sum(part.seconds for part in parts)
    percent = 100 * ideal_s / median_s
    nodes = sum(part.nodes for part in parts)
    if percent < _FAR_PERCENT:
        best = f"at this machine's best ({products.name}) the work takes {_time(ideal_s)}"
        if (median_s - ideal_s) / nodes < _CALL_S:
            return f"overhead: {best}; starting a run and its {nodes} nodes takes the rest of {_time(median_s)}"
        return f"the library: {best}, and {median_s / ideal_s:.1f} times as long this way; its kernels are slow here"
    computing = [part for part in parts if part.is_computing]
    moving = [part for part in parts if not part.is_computing]
    if sum(part.seconds for part in computing) >= ideal_s / 2:
        kind, seconds = _by_kind(computing)[0]
        slow = f"; nothing here is quicker in {precision}" if products.precision != precision else ""
        what = (
            f"computing: {100 * seconds / ideal_s:.0f} % of the work's best time ({_time(ideal_s)}) goes to {kind}, at "
            f"{_rate(products.per_second, 'FLOP/s')} ({products.name}{slow})"
        )
    else:
        assert copy is not None, "without it nothing moves"
        kinds = ", ".join(kind for kind, _ in _by_kind(moving)[:3])
        share = 100 * sum(part.seconds for part in moving) / ideal_s
        what = (
            f"memory: {share:.0f} % of the work's best time ({_time(ideal_s)}) moves data, at "
            f"{_rate(copy.per_second, 'B/s')}, most of it for {kinds}"
        )
    return f"{what}; this way reaches {percent:.0f} % of that speed"


def _by_kind(parts: Sequence[_Part]) -> list[tuple[str, float]]:
    """Ideal seconds of each kind, the longest first."""
    seconds: dict[str, float] = defaultdict(float)
    for part in parts:
        seconds[part.kind] += part.seconds
    return sorted(seconds.items(), key=lambda pair: pair[1], reverse=True)


def _time(seconds: float) -> str:
    """For a sentence.

    >>> _time(0.000123), _time(0.0996), _time(12.3)
    ('0.12 ms', '100 ms', '12300 ms')
    """
    return f"{_short(seconds * 1e3)} ms"


def _rate(per_second: float, unit: str) -> str:
    """For a sentence.

    >>> _rate(61.2e9, "FLOP/s"), _rate(1.24e12, "FLOP/s"), _rate(18.3e9, "B/s")
    ('61 GFLOP/s', '1.2 TFLOP/s', '18 GB/s')
    """
    scale, prefix = (1e12, "T") if per_second >= 1e12 else (1e9, "G")
    return f"{_short(per_second / scale)} {prefix}{unit}"


def _short(number: float) -> str:
    """Two digits, or all before the point."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
