"""What difference from PyTorch passes."""

from __future__ import annotations

from dataclasses import dataclass

from i2i_export.request import Request
from i2i_runtime.card import Card, ParityRecord


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What passes: a bound on the largest difference, or on the PSNR of the picture that fares worst."""

    max_abs: float | None = None
    """In the tensor's units, or in grey levels of a uint8 graph."""
    min_psnr_db: float | None = None

    def __str__(self) -> str:
        bounds = [f"<= {self.max_abs:g}"] if self.max_abs is not None else []
        return ", ".join(bounds + ([f">= {self.min_psnr_db:g} dB"] if self.min_psnr_db is not None else []))

    def passes(self, record: ParityRecord) -> bool:
        """Whether a record keeps the bounds."""
        assert record.worst_psnr_db is not None
        return (self.max_abs is None or record.max_abs <= self.max_abs) and (
            self.min_psnr_db is None or record.worst_psnr_db >= self.min_psnr_db
        )

    def shortfall(self, record: ParityRecord) -> str:
        """What a record that does not pass lacks, for a message."""
        if self.max_abs is not None and record.max_abs > self.max_abs:
            return f"differs by {record.max_abs:.3g}, expected at most {self.max_abs:g}"
        return f"is {record.worst_psnr_db:.1f} dB away on its worst picture, expected {self.min_psnr_db:g} dB"


def default_gate(card: Card, request: Request, *, is_plan: bool) -> Gate:
    """The gate of a precision, with what the user decided in its place or beside it.

    FP32 repeats PyTorch but for the order of sums: 1e-4, but not with pix2pixHD, whose sums of 9,216 products differ by
    2e-4 and more at some pixels where PyTorch itself is 0.3e-4 from float64; it has 80 dB, as far from FP16 as from
    identical. FP16 costs trained generators 58 to 68 dB, and 45 dB is one grey level in 256 at most pixels. INT8 at
    35 dB is where differences begin to be seen side by side. A plan's kernels may transform convolutions (Winograd), so
    FP32 has 60 dB there.
    """
    export = card.export
    assert export is not None
    max_abs, min_psnr_db = request.tolerance, request.min_psnr
    if export.precision == "fp32" and not is_plan:
        if export.graph_io == "float" and card.generator.name in ("global", "local"):
            return Gate(max_abs=max_abs, min_psnr_db=80.0 if min_psnr_db is None else min_psnr_db)
        usual = 1.0 if export.graph_io == "uint8" else 1e-4
        return Gate(max_abs=usual if max_abs is None else max_abs, min_psnr_db=min_psnr_db)
    usual = {"fp32": 60.0, "fp16": 45.0, "int8": 35.0}[export.precision]
    return Gate(max_abs=max_abs, min_psnr_db=usual if min_psnr_db is None else min_psnr_db)
