"""The port of object stores: where providers deliver their exports. Read only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol


class ObjectInfo(NamedTuple):
    """One object as listed. `version` changes whenever the content does (etag, generation)."""

    key: str
    size: int
    version: str
    modified_at: datetime


class ObjectStore(Protocol):
    """Objects under keys that use `/`. A missing object is Terminal, an unreachable store Transient."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, to the last page, in order of key."""

    def info(self, key: str) -> ObjectInfo | None:
        """The object, or None when there is none."""

    def read(self, key: str, limit: int) -> bytes:
        """A small object whole. Raises Terminal when it is missing or larger than `limit` bytes."""

    def fetch(self, key: str) -> AbstractContextManager[Path]:
        """A local file with the object's content, for the time of the `with`. Terminal when missing."""
