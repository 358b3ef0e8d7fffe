"""A report: a folder with a Markdown page and its plots."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from i2i_runtime.errors import SinkError, UsageError, system_reason
from i2i_runtime.image import make_folder


@dataclass(frozen=True, kw_only=True)
class ReportKind:
    """What the reports of one script are called."""

    script: str
    """For example `latency.py`."""
    page: str
    """For example `report.md`."""
    pictures: str
    """Regular expression of the names of its plots."""

    @property
    def mark(self) -> str:
        """What a page of it holds."""
        return f"<!-- made by benchmarks/{self.script}, which replaces it and its pictures -->"

    def check(self, folder: Path) -> set[str]:
        """See that a report can be written there, before anything is measured.

        Returns:
            The pictures of the report that is there, to be replaced.

        Raises:
            UsageError: there is another page of that name, or the folder is a file.
        """
        page = folder / self.page
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: expected a folder for the report, found a file; choose another --report")
        try:
            text = page.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except (OSError, ValueError):
            text = ""
        if self.mark not in text:
            raise UsageError(f"{page}: expected a report of {self.script}, found another file; choose another --report")
        return set(re.findall(rf"^!\[.*\]\(({self.pictures})\)$", text, re.MULTILINE))

    def write(self, folder: Path, make_page: Callable[[Path], str]) -> Path:
        """Write the page and its plots, which are PNG files: unlike SVG they look alike in every viewer.

        A report that is there is replaced with its pictures; all else in the folder stays as it is.

        Args:
            folder: is made if need be.
            make_page: draws the plots into the folder that it is given, and returns the page, which holds `mark`.

        Returns:
            The path of the page.

        Raises:
            UsageError: as of `check`.
            SinkError: it cannot be written.
        """
        before = self.check(folder)
        make_folder(folder)
        page = folder / self.page
        try:
            with tempfile.TemporaryDirectory(prefix=".report.", suffix=".partial", dir=folder) as name:
                staged = Path(name)
                (staged / self.page).write_text(make_page(staged), encoding="utf-8")
                pictures = {path.name for path in staged.glob("*.png")}
                for picture in sorted(pictures):
                    (staged / picture).replace(folder / picture)
                # Comes last: a page whose pictures are there is what others see.
                (staged / self.page).replace(page)
                for picture in before - pictures:
                    (folder / picture).unlink(missing_ok=True)
        except OSError as error:
            raise SinkError(f"{page}: cannot be written ({system_reason(error)}); choose another --report") from error
        return page
