"""Which sizes an export is made for."""

from __future__ import annotations

from i2i_export.request import Request, Sides
from i2i_runtime.card import Card, SizeProfile
from i2i_runtime.engines.base import shape_words
from i2i_runtime.errors import UsageError

_SIZE = 256
"""Side in pixels of the pictures that most published generators were trained on."""


def typical_size(card: Card) -> tuple[int, int]:
    """(height, width) of an exported card: its size, or the one that a dynamic graph is tuned for."""
    if card.export is not None and card.export.profile is not None:
        return card.export.profile.typical
    assert card.size.height is not None
    assert card.size.width is not None
    return card.size.height, card.size.width


def usual_size(card: Card) -> Sides:
    """The size of the training; of a file that does not say, what most generators of its kind were trained on.

    Raises:
        UsageError: a model of label maps that does not say.
    """
    if card.training is not None:
        return card.training.size
    if card.labels is not None:
        raise UsageError(f"{card.name}: its file does not say at which size it was trained; give --size HEIGHTxWIDTH")
    multiple = card.size.multiple_of
    # A U-Net is named after the size at which its innermost level is one pixel.
    side = multiple if card.generator.name.startswith("unet_") else -(-_SIZE // multiple) * multiple
    return side, side


def profile(request: Request, card: Card, size: Sides) -> SizeProfile | None:
    """The sizes of a dynamic graph; None for a static one.

    Raises:
        UsageError: sizes in the wrong order.
    """
    if not request.is_dynamic:
        return None
    return _profile(request, size, card.size.multiple_of, card.size.minimum)


def requested_profile(request: Request) -> SizeProfile | None:
    """The sizes of an ONNX file that does not name them, as the user gave them; None if they did not.

    Raises:
        UsageError: no typical size, or sizes in the wrong order.
    """
    if not request.is_dynamic:
        return None
    if request.size is None:
        raise UsageError("--dynamic: of an ONNX file without a card, expected --size too, which a plan is tuned for")
    return _profile(request, request.size, 1, 1)


def _profile(request: Request, size: Sides, multiple: int, minimum: int) -> SizeProfile:
    half = tuple(max(minimum, side // 2 // multiple * multiple) for side in size)
    smallest = request.min_size or (half[0], half[1])
    largest = request.max_size or (2 * size[0], 2 * size[1])
    if any(not low <= mid <= high for low, mid, high in zip(smallest, size, largest, strict=True)):
        raise UsageError(
            f"--min-size {shape_words(smallest)} --size {shape_words(size)} --max-size {shape_words(largest)}: "
            "expected each side of the first to be at most that of the second, and that of the third"
        )
    return SizeProfile(smallest=smallest, typical=size, largest=largest, batch=request.max_batch)


def check(card: Card, size: Sides) -> None:
    """Refuse sizes that a generator does not take.

    Raises:
        UsageError: says which it takes.
    """
    its = card.export.profile if card.export is not None else None
    named = {"--size": size} | ({"--min-size": its.smallest, "--max-size": its.largest} if its else {})
    for option, sides in named.items():
        if not card.size.allows(sides):
            raise UsageError(
                f"{option} {shape_words(sides)}: {card.generator.name} takes multiples of {card.size.multiple_of} from "
                f"{card.size.minimum} on"
            )


def announcement(card: Card) -> str:
    """What is about to be exported, on one line."""
    assert card.export is not None
    which = shape_words(typical_size(card))
    if (its := card.export.profile) is not None:
        which = f"{shape_words(its.smallest)} to {shape_words(its.largest)}, batch up to {its.batch}"
    return f"exporting {card.generator.name} at {which}, {card.export.precision}, {card.export.graph_io} I/O ..."
