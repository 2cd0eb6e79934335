"""What the page shows beside its tables: figures as SVG text, videos as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from senna2.types import InputError


@dataclass(frozen=True)
class Figure:
    """An SVG picture. `section`: "control" or "overview", the part of the page it belongs to."""

    title: str
    caption: str
    svg: str
    section: str = "control"


@dataclass(frozen=True)
class Video:
    """An H.264 mp4 of one clip; the page embeds its bytes. `outcome`: one line on what happens."""

    family: str
    clip: str
    path: Path
    title: str = ""
    outcome: str = ""

    def read(self) -> bytes:
        """The file's bytes; raises `InputError` if it is missing or empty."""
        if not self.path.is_file() or self.path.stat().st_size == 0:
            raise InputError(f"report: video {self.path} is missing or empty; render it again or leave it out")
        return self.path.read_bytes()
