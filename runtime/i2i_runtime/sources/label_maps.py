"""Label maps: a folder of class ids and, where a model takes them, one of instance ids."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.image import list_images, read_ids, without_common_ending
from i2i_runtime.sources.base import Source, StreamInfo


class LabelMapsSource(Source):
    """Each label map once, in natural order, as (h, w, 1 or 2) int32; unreadable ones are skipped and named."""

    def __init__(self, labels: str, instances: str | None = None) -> None:
        """Find the maps.

        Args:
            labels: a folder of label maps, or one label map.
            instances: the same of instance maps, with equal names but for an ending that all of a folder share.

        Raises:
            SourceError: nothing there, or names that do not match.
        """
        self._files = self._find(labels)
        self._instances = self._match(self._find(instances)) if instances is not None else None
        self.skipped = []
        self.info = StreamInfo(name=Path(labels).stem, is_live=False, frame_count=len(self._files))

    @property
    def folders(self) -> set[Path]:
        """Where the maps lie: results must not be written there."""
        return {path.parent.resolve() for path in (*self._files, *(self._instances or ()))}

    @staticmethod
    def _find(where: str) -> list[Path]:
        path = Path(where)
        files = list_images(path, also=(".npy",)) if path.is_dir() else [path] if path.is_file() else []
        if not files:
            raise SourceError(f"{where}: expected a folder of label maps or one of them, found none")
        return files

    def _match(self, instances: list[Path]) -> list[Path]:
        if len(self._files) == len(instances) == 1:
            return instances
        of_labels, of_instances = ({path.stem: path for path in files} for files in (self._files, instances))
        if not of_labels.keys() <= of_instances.keys():
            of_labels, of_instances = without_common_ending(of_labels), without_common_ending(of_instances)
        alone = sorted(of_labels.keys() - of_instances.keys())
        if alone:
            raise SourceError(
                f"{instances[0].parent}: expected an instance map for each label map, found none for {alone[0]}"
            )
        return [of_instances[name] for name in of_labels]

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`."""
        index = 0
        for number, path in enumerate(self._files):
            try:
                maps = [read_ids(path), *([read_ids(self._instances[number])] if self._instances else [])]
                if len({each.shape for each in maps}) > 1:
                    raise SourceError(f"{path}: expected an instance map of its size, found {maps[1].shape[1::-1]}")
            except SourceError as error:
                self.skipped.append(str(error))
                continue
            image: Any = np.concatenate(maps, axis=2)
            yield Frame(image=image, index=index, captured_at=time.monotonic(), name=path.stem)
            index += 1
        if index == 0:
            raise SourceError(f"none of {len(self._files)} label maps could be read; the first: {self.skipped[0]}")

    def close(self) -> None:
        """See `Source`: nothing stays open between two maps."""


def require_instances(wanted: bool, given: str | None, model: str) -> None:
    """Refuse instance maps that a model does not take, and the lack of those that it does.

    Raises:
        UsageError: either.
    """
    if wanted and given is None:
        raise UsageError(f"{model}: takes instance maps beside label maps; give --instances DIR")
    if given is not None and not wanted:
        raise UsageError(f"--instances: {model} takes no instance maps; leave it out")
