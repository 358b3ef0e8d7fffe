"""A student by its numbers: what decides how long it takes, without its weights and without PyTorch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from i2i_runtime.card import Architecture
from i2i_runtime.errors import UsageError

BlockKind = Literal["plain", "grouped", "separable"]
"""What a block has for its two convolutions of 3x3; see `networks.student.StudentGenerator`."""
BLOCK_KINDS: tuple[BlockKind, ...] = get_args(BlockKind)
GROUP = 16
"""Channels of each group of a grouped convolution: two AVX2 registers, or one of AVX-512."""
Size = tuple[int, int]
"""(height, width) in pixels."""
_NAME = re.compile(r"student_(0|[1-9]\d?)blocks")
_FOLDED_NORMS = ("none", "batch")
"""Those that are nothing, or a part of the convolution before them, once a student is exported."""


@dataclass(frozen=True, kw_only=True)
class StudentShape:
    """The numbers of a `StudentGenerator`."""

    block: BlockKind = "plain"
    width: int
    """Channels at a quarter of the size."""
    half: int = 0
    """Channels at half of the size; 0: sizes change by four at once."""
    inners: tuple[int, ...]
    """Channels in the middle of each block."""
    input_channels: int = 3
    output_channels: int = 3

    @classmethod
    def of(cls, architecture: Architecture) -> StudentShape:
        """Read them from an architecture.

        Raises:
            UsageError: another generator, or one whose norms stay nodes of their own.
        """
        name, arguments = architecture.name, architecture.arguments
        match = _NAME.fullmatch(name)
        if match is None:
            raise UsageError(f"generator {name!r}: times are known of students only; expected student_6blocks or such")
        norm = arguments.get("norm", "none")
        if norm not in _FOLDED_NORMS:
            raise UsageError(
                f"{name}, norm {norm}: times are known without norms; expected {' or '.join(_FOLDED_NORMS)}"
            )
        block = next((kind for kind in BLOCK_KINDS if kind == arguments.get("block", "plain")), None)
        if block is None:
            raise UsageError(f"{name}, block {arguments['block']}: expected {', '.join(BLOCK_KINDS)}")
        width, inner = int(arguments.get("width", 32)), str(arguments.get("inner", ""))
        inners = inner.split("_") if inner else [str(width)] * int(match[1])
        if len(inners) != int(match[1]) or not all(number.isdecimal() and int(number) for number in inners):
            raise UsageError(f"{name}, inner {inner!r}: expected {match[1]} numbers joined by underscores")
        return cls(
            block=block,
            width=width,
            half=int(arguments.get("half", 0)),
            inners=tuple(map(int, inners)),
            input_channels=int(arguments.get("input_channels", 3)),
            output_channels=int(arguments.get("output_channels", 3)),
        )

    def architecture(self) -> Architecture:
        """What `StudentShape.of` reads as this."""
        return Architecture(
            name=f"student_{len(self.inners)}blocks",
            arguments={
                "input_channels": self.input_channels,
                "output_channels": self.output_channels,
                "width": self.width,
                "half": self.half,
                "inner": "" if set(self.inners) <= {self.width} else "_".join(map(str, self.inners)),
                "block": self.block,
                "norm": "none",
            },
        )

    def words(self) -> str:
        """As `--student` takes them, for example `student_4blocks,width=32,half=0,block=plain,norm=none`.

        Without channels, which follow from the pictures.
        """
        architecture = self.architecture()
        arguments = architecture.arguments.items()
        its = [f"{key}={value}" for key, value in arguments if not key.endswith("put_channels") and value != ""]
        return ",".join([architecture.name, *its])

    def macs(self, size: Size) -> int:
        """Multiply-adds of one picture, as `i2i-export --info` counts them.

        Args:
            size: of the picture; multiples of 4.
        """
        quarter = size[0] // 4 * (size[1] // 4)
        blocks = sum(self._branch(self.width, inner) + self._branch(inner, self.width) for inner in self.inners)
        if not self.half:
            # A patch of 4x4 pixels is one of the channels that 3x3 meets.
            return (9 * 16 * (self.input_channels + self.output_channels) * self.width + blocks) * quarter
        at_half = 9 * 4 * (self.input_channels + self.output_channels) * self.half
        at_quarter = 9 * self.half * self.width * (1 + 4)
        return (4 * at_half + at_quarter + blocks) * quarter

    def _branch(self, before: int, after: int) -> int:
        """Multiply-adds of a pixel, of one of the two steps of a block."""
        if self.block == "plain":
            return 9 * before * after
        return 9 * before * (GROUP if self.block == "grouped" else 1) + before * after
