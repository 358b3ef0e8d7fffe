"""Pictures: a file, a folder or a glob pattern."""

from __future__ import annotations

import glob
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.image import IMAGE_SUFFIXES, list_images, natural_order, read_image
from i2i_runtime.sources.base import Source, StreamInfo


class ImagesSource(Source):
    """Each picture once, in natural order; unreadable ones are skipped and named."""

    def __init__(self, where: str, at_most: int | None = None) -> None:
        """Find the pictures.

        Args:
            where: a folder, a picture, or a glob pattern such as `pictures/*.jpg`.
            at_most: take this many at most, evenly spaced over all that are there.

        Raises:
            SourceError: nothing there.
        """
        path = Path(where)
        if path.is_dir():
            self._files = list_images(path)
        elif path.is_file():
            self._files = [path]
        else:
            # pathlib's own glob takes no absolute pattern.
            found = (Path(name) for name in glob.glob(where, recursive=True))  # noqa: PTH207
            pictures = (p for p in found if p.suffix.lower() in IMAGE_SUFFIXES)
            self._files = sorted(pictures, key=lambda p: (p.parent, natural_order(p)))
        if not self._files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"{where}: expected pictures ({kinds}), found none")
        if at_most is not None:
            self._files = self._files[:: -(-len(self._files) // at_most)]
        self._names = _distinct_names(self._files)
        self.skipped = []
        self.info = StreamInfo(name=path.stem, is_live=False, frame_count=len(self._files))

    @property
    def folders(self) -> set[Path]:
        """Where the pictures lie: results must not be written there."""
        return {p.parent.resolve() for p in self._files}

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`."""
        index = 0
        for file, name in zip(self._files, self._names, strict=True):
            try:
                image = read_image(file)
            except SourceError as error:
                self.skipped.append(str(error))
                continue
            yield Frame(image=image, index=index, captured_at=time.monotonic(), name=name)
            index += 1
        if index == 0:
            raise SourceError(f"none of {len(self._files)} pictures could be read; the first: {self.skipped[0]}")

    def close(self) -> None:
        """See `Source`: nothing stays open between two pictures."""


def _distinct_names(files: list[Path]) -> list[str]:
    """A name for each result: the stem, or the whole name where stems collide, or that and a number.

    cat.jpg and cat.png must not become one result, nor a/cat.png and b/cat.png.
    """
    stems = Counter(p.stem for p in files)
    names: dict[str, None] = {}
    for file in files:
        wanted = file.stem if stems[file.stem] == 1 else file.name
        numbered = (f"{wanted}_{number}" for number in itertools.count(2))
        names[next(name for name in itertools.chain([wanted], numbered) if name not in names)] = None
    return list(names)
