"""Reading and writing pictures, and fitting them to the size a model takes and back."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from i2i_runtime.card import ImageSpec, SizeRule
from i2i_runtime.errors import SinkError, SourceError, reason
from i2i_runtime.frame import Image, LabelMap

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

FitMode = Literal["letterbox", "stretch"]


def list_images(folder: Path, also: Sequence[str] = ()) -> list[Path]:
    """The picture files directly in `folder`, in the order a person would count them (2 before 10).

    Args:
        folder: where they lie.
        also: suffixes that count as pictures here, beside the usual ones.
    """
    suffixes = IMAGE_SUFFIXES.union(also)
    files = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    return sorted(files, key=natural_order)


def natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key that compares runs of digits as numbers."""
    parts = re.split(r"(\d+)", path.name)
    # isdecimal, not isdigit: "²" is a digit that int() refuses.
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def read_image(path: Path) -> Image:
    """Read a picture as (height, width, 3) uint8 BGR; EXIF orientation is applied, alpha is dropped.

    Raises:
        SourceError: missing, empty, truncated, over the pixel limit or not a picture.
    """
    return np.asarray(decode_picture(path, cv2.IMREAD_COLOR), np.uint8)


def decode_picture(path: Path, flags: int) -> npt.NDArray[Any]:
    """Decode a picture file as OpenCV's `flags` say: (height, width) or (height, width, channels).

    Raises:
        SourceError: missing, empty, truncated, over the pixel limit or not a picture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    problem = picture_problem(data)
    if problem:
        raise SourceError(f"{path}: {problem}")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        limit = int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"])
        detail = f"over {limit / 1e6:.0f} Mpx" if "pixels" in str(error).lower() else reason(error)
        raise SourceError(f"{path}: the picture cannot be decoded ({detail})") from error
    if image is None:
        raise SourceError(f"{path}: not a picture that OpenCV can decode")
    return np.asarray(image)


def read_ids(path: Path) -> npt.NDArray[np.int32]:
    """Read a map of class or instance ids, from a picture or a NumPy file (.npy), as (height, width, 1) int32.

    Raises:
        SourceError: missing, damaged, or a picture with colours instead of one channel of 8 or 16 bits.
    """
    ids = read_npy(path) if path.suffix.lower() == ".npy" else decode_picture(path, cv2.IMREAD_UNCHANGED)
    ids = ids[:, :, None] if ids.ndim == 2 else ids
    if ids.ndim != 3 or ids.shape[2] != 1 or ids.dtype not in (np.uint8, np.uint16):
        found = f"{ids.shape[-1]} channels" if ids.ndim == 3 and ids.shape[2] != 1 else str(ids.dtype)
        raise SourceError(
            f"{path}: expected one channel of ids of 8 or 16 bits, found {found}; a picture of coloured or palette "
            "classes must be converted to ids first"
        )
    return ids.astype(np.int32)


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Read a NumPy file without running anything that is in it.

    Raises:
        SourceError: missing, damaged, or of Python objects.
    """
    try:
        array = np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"{path}: not a NumPy array ({reason(error)})") from error
    if array.size == 0:
        raise SourceError(f"{path}: the array is empty")
    return array


def without_common_ending(names: Mapping[str, Path]) -> dict[str, Path]:
    """Files by their names without an ending that all of them share, such as `_labelIds` or `_A`.

    >>> list(without_common_ending({"a_x": Path("a_x.png"), "b_x": Path("b_x.png")}))
    ['a', 'b']
    """
    if len(names) < 2:
        return dict(names)
    endings = takewhile(lambda letters: len(set(letters)) == 1, zip(*(name[::-1] for name in names), strict=False))
    length = len(list(endings))
    return {name[: len(name) - length]: path for name, path in names.items()}


def picture_problem(data: bytes) -> str | None:
    """What is wrong with a picture file that decoders would pass over in silence; None if nothing is.

    OpenCV fills the missing part of a truncated JPEG with grey and reports success.
    """
    if not data:
        return "the file is empty"
    if data.startswith(b"\xff\xd8"):
        scan = _first_scan(data)
        # Entropy-coded data never holds FF D9, and an EXIF thumbnail's own end lies before the first scan.
        if scan is None or data.find(b"\xff\xd9", scan) < 0:
            return "truncated JPEG (its end marker is missing)"
    if data.startswith(b"\x89PNG") and b"IEND" not in data:
        return "truncated PNG (its end chunk is missing)"
    return None


def _first_scan(data: bytes) -> int | None:
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:
            return position
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def write_image(path: Path, image: Image) -> None:
    """Write a picture in the format of its suffix: beside the target first, then moved into place.

    Raises:
        SinkError: the format is unknown or the disk refuses.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        done, data = cv2.imencode(path.suffix, image)
        if not done:
            raise SinkError(f"{path}: OpenCV cannot write {path.suffix} pictures; use .png or .jpg")
        beside.write_bytes(data.tobytes())
        beside.replace(path)
    except cv2.error as error:
        raise SinkError(f"{path}: OpenCV cannot write {path.suffix!r} pictures; use .png or .jpg") from error
    except OSError as error:
        with suppress(OSError):  # a name too long to write is too long to delete
            beside.unlink(missing_ok=True)
        raise SinkError(f"{path}: cannot be written ({error.strerror})") from error


def make_folder(folder: Path) -> None:
    """Make `folder` and check that files can be written in it.

    Raises:
        SinkError: it cannot be made or written to.
    """
    probe = folder / ".i2i-write-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SinkError(
            f"{folder}: expected a folder that can be written ({error.strerror}); choose another output"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How an image of one size is brought into the size a model takes, and a result back."""

    source: tuple[int, int]
    """(height, width) of the image."""
    scaled: tuple[int, int]
    """(height, width) after resizing, before padding."""
    model: tuple[int, int]
    """(height, width) that the model sees."""

    @property
    def _offset(self) -> tuple[int, int]:
        return (self.model[0] - self.scaled[0]) // 2, (self.model[1] - self.scaled[1]) // 2

    def apply(self, image: Image) -> Image:
        """Resize and pad by reflection: (h, w, c) of `source` size to (h, w, c) of `model` size."""
        image = resize(image, self.scaled)
        if self.scaled == self.model:
            return image
        top, left = self._offset
        bottom = self.model[0] - self.scaled[0] - top
        right = self.model[1] - self.scaled[1] - left
        padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REFLECT_101)
        return np.asarray(padded, np.uint8)

    def apply_to_ids(self, maps: LabelMap) -> LabelMap:
        """As `apply` for (h, w, c) ids, which take their nearest neighbour and never a mean."""
        scaled = cv2.resize(maps, self.scaled[::-1], interpolation=cv2.INTER_NEAREST).reshape(*self.scaled, -1)
        (top, left), (height, width) = self._offset, self.scaled
        sides = ((top, self.model[0] - height - top), (left, self.model[1] - width - left), (0, 0))
        return np.pad(scaled, sides, mode="edge")

    def undo(self, image: Image) -> Image:
        """Crop the padding away and resize back: `model` size to `source` size."""
        top, left = self._offset
        return resize(image[top : top + self.scaled[0], left : left + self.scaled[1]], self.source)


def plan_fit(height: int, width: int, rule: SizeRule, mode: FitMode = "letterbox") -> Fit:
    """How to bring a (height, width) image into a size that `rule` allows.

    A model of fixed size gets the image resized: `letterbox` keeps the aspect and pads the rest by reflection,
    `stretch` fills the model's whole size. A model of free size gets it unscaled, or as large as it takes, and padded
    to the next multiple.

    >>> plan_fit(240, 426, SizeRule(height=256, width=256)).scaled
    (144, 256)
    >>> plan_fit(240, 426, SizeRule(multiple_of=32)).model
    (256, 448)
    """
    low, high = rule.smallest or (rule.minimum,) * 2, rule.largest or (height, width)

    def fitting(length: int, least: int) -> int:
        multiple = rule.multiple_of
        return max(-(-length // multiple), -(-max(least, rule.minimum) // multiple)) * multiple

    if rule.height is None and rule.width is None:
        shrink = min(1.0, high[0] / height, high[1] / width)
        scaled = max(1, round(height * shrink)), max(1, round(width * shrink))
        model = fitting(scaled[0], low[0]), fitting(scaled[1], low[1])
        return Fit(source=(height, width), scaled=scaled, model=model)
    model = rule.height or fitting(height, low[0]), rule.width or fitting(width, low[1])
    if mode == "stretch":
        scaled = model
    else:
        scale = min(model[0] / height, model[1] / width)
        scaled = (
            min(model[0], max(1, round(height * scale))),
            min(model[1], max(1, round(width * scale))),
        )
    return Fit(source=(height, width), scaled=scaled, model=model)


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Resize to (height, width): area averaging when it shrinks, cubic when it grows; the image itself if neither."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def image_to_tensor(image: Image, spec: ImageSpec) -> npt.NDArray[np.float32]:
    """(h, w, 3) uint8 BGR to (1, c, h, w) float32 in the channels, colour order and value range of `spec`."""
    if spec.channels == 1:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
    low, high = spec.value_range
    scale = (high - low) / 255.0
    # Three times as quick as the same sum in NumPy, and equal to 1e-6.
    blob = cv2.dnn.blobFromImage(image, scale, mean=(-low / scale,) * 3, swapRB=spec.colour == "RGB")
    return np.asarray(blob, np.float32)


def tensor_to_image(tensor: npt.NDArray[Any], spec: ImageSpec) -> Image:
    """(c, h, w) in the value range of `spec` to (h, w, 3) uint8 BGR, rounded and clipped."""
    low, high = spec.value_range
    scale = 255.0 / (high - low)
    planes = [
        cv2.addWeighted(plane, scale, plane, 0.0, -low * scale, dtype=cv2.CV_8U)
        for plane in np.asarray(tensor, np.float32)
    ]
    if spec.channels == 1:
        planes *= 3
    elif spec.colour == "RGB":
        planes.reverse()
    return np.asarray(cv2.merge(planes), np.uint8)
