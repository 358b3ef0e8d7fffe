"""Pictures: a file, a folder or a glob pattern."""

from __future__ import annotations

import glob
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

    def __init__(self, where: str) -> None:
        """Find the pictures.

        Args:
            where: a folder, a picture, or a glob pattern such as `pictures/*.jpg`.

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
            self._files = sorted((p for p in found if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_order)
        if not self._files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"{where}: expected pictures ({kinds}), found none")
        stems = Counter(p.stem for p in self._files)
        # cat.jpg and cat.png must not become one result.
        self._names = [p.stem if stems[p.stem] == 1 else p.name for p in self._files]
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
