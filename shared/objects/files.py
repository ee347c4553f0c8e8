"""Objects as the files of a folder: what stands at `root/key` is the object `key`.

Read only, and only below the root: a key that leads out of it, by `..` or through a symbolic link, is
refused like one that does not exist anywhere. Temporary names of a copy in progress are not special:
who copies an export here copies its manifest last, as providers do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from errno import ENAMETOOLONG
from pathlib import Path

from shared.errors import Terminal, Transient
from shared.objects import ObjectInfo


class FolderStore:
    """The `ObjectStore` of a folder. A version is the file's size, time and inode.

    `inside` is a folder that the root must not lead out of, through a link below it. `name` is what
    whoever named the folder calls it: an error says this, and not where on the machine it is.
    """

    def __init__(self, root: Path, *, inside: Path | None = None, name: str = "") -> None:
        shown = name or str(root)
        try:
            self._root = root.resolve(strict=True)
            outside = inside is not None and not self._root.is_relative_to(inside.resolve())
        except (OSError, RuntimeError, ValueError) as exc:  # a loop of links; a name with a NUL
            denied = isinstance(exc, PermissionError)
            raise Terminal(
                f"{shown}: {'may not be read' if denied else 'there is no such folder'}",
                code="forbidden" if denied else "source_missing",
            ) from None
        if outside or not self._root.is_dir():
            raise Terminal(f"{shown}: there is no such folder", code="source_missing")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # A prefix may end inside a name; its folder part bounds the walk.
        folder = prefix.rpartition("/")[0]
        if folder and self._path(folder) is None:
            return
        start = self._root / folder
        keys = []
        for current, _folders, names in os.walk(start, onerror=self._unread):
            base = Path(current).relative_to(self._root).as_posix()
            for name in names:
                key = name if base == "." else f"{base}/{name}"
                if key.startswith(prefix):
                    keys.append(key)
        for key in sorted(keys):
            found = self.info(key)
            if found is not None:
                yield found

    def info(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        with _reachable(key):
            stat = path.stat()
        return ObjectInfo(
            key=key,
            size=stat.st_size,
            version=f"{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ino:x}",
            modified_at=datetime.fromtimestamp(stat.st_mtime, UTC),
        )

    def read(self, key: str, limit: int) -> bytes:
        with self.fetch(key) as path, _reachable(key), path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise Terminal(
                f"{key}: is larger than the {limit:,} bytes it may have", code="object_too_large"
            )
        return content

    @contextmanager
    def fetch(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        if path is None or not path.is_file():
            raise Terminal(f"{key}: there is no such object", code="object_missing")
        with _reachable(key), path.open("rb"):
            pass
        yield path

    def _unread(self, error: OSError) -> None:
        """A folder that cannot be listed is no empty folder; one that was just deleted is."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            with _reachable(Path(error.filename).relative_to(self._root).as_posix()):
                raise error

    def _path(self, key: str) -> Path | None:
        """The file or folder of a key, or None where there is none below the root."""
        if "\0" in key or any(part in {"", ".", ".."} for part in key.split("/")):
            return None
        with _reachable(key):
            try:
                path = (self._root / key).resolve()
                there = path.is_relative_to(self._root) and path.exists()
            except RuntimeError:  # links that lead in a circle
                return None
            except OSError as error:
                if error.errno == ENAMETOOLONG:
                    return None
                raise
        return path if there else None


@contextmanager
def _reachable(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Terminal(f"{key}: there is no such object", code="object_missing") from None
    except PermissionError as exc:
        raise Terminal(f"{key}: may not be read: {exc.strerror}", code="forbidden") from exc
    except OSError as exc:
        raise Transient(f"{key}: cannot be read: {exc.strerror}", code="unreachable") from exc
