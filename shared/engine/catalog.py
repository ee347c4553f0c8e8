"""The pipelines of a release, by address: read from a folder of YAML, or from what was compiled of it.

A pipeline is `[category/]provider/domain/pipeline.yml` below the folder, and its address the last
three of these. The folder `system/` holds other things, and names that begin with a dot are no part
of the tree (an editor's lock, a mounted volume's `..data`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_ISREG

import msgspec

from shared.core.nearmiss import did_you_mean
from shared.core.pipeline import Pipeline, Processors
from shared.core.providers import FILE as REGISTRY
from shared.core.providers import Providers, parse_providers
from shared.errors import ConfigError, Fault, NotFound, Unreadable

SUFFIX = ".yml"
NOT_PIPELINES = "system"
PART = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SHAPE = "a pipeline is [category/]provider/domain/pipeline.yml"
_FORMAT = 1


class _Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What `compiled` writes. A release reads only what it has written itself."""

    format: int
    pipelines: list[Pipeline]


class Catalog:
    """All pipelines of a release. Every one of them is valid, and no two share a name."""

    def __init__(self, pipelines: Iterable[Pipeline]) -> None:
        self._by_address = {pipeline.address: pipeline for pipeline in pipelines}
        self._address_of_id = {
            pipeline.pipeline_id: address for address, pipeline in self._by_address.items()
        }

    @classmethod
    def load(cls, root: Path, processors: Processors) -> Catalog:
        """Reads every pipeline below `root`. Raises ConfigError with all faults of all files."""
        from shared.core.parse import load_pipeline  # noqa: PLC0415  # not for a compiled catalog

        faults: list[Fault] = []
        found: list[tuple[Path, Pipeline]] = []
        providers = _providers(root / REGISTRY, faults)
        for path in _files(root, faults):
            try:
                found.append(
                    (path, load_pipeline(str(path), _content(path), processors, providers))
                )
            except ConfigError as error:
                faults += error.faults
            except OSError as error:
                faults.append(Fault(str(path), f"cannot be read: {error.strerror}"))
        faults += _doubles(found)
        if faults:
            raise ConfigError(faults)
        return cls(sorted((pipeline for _, pipeline in found), key=lambda one: one.address))

    @classmethod
    def from_compiled(cls, raw: bytes) -> Catalog:
        """The catalog that `compiled` has written. Raises Unreadable for anything else."""
        try:
            compiled = msgspec.json.decode(raw, type=_Compiled)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreadable(f"not a compiled catalog: {error}") from error
        if compiled.format != _FORMAT:
            raise Unreadable(f"catalog format {compiled.format}, this release reads {_FORMAT}")
        return cls(compiled.pipelines)

    def compiled(self) -> bytes:
        """The catalog as JSON, the same bytes for the same files: an image parses no YAML."""
        return msgspec.json.encode(_Compiled(format=_FORMAT, pipelines=list(self)))

    def get(self, address: str) -> Pipeline:
        """The pipeline at `provider/domain/pipeline`. Raises NotFound, naming the nearest one."""
        try:
            return self._by_address[address]
        except KeyError:
            near = did_you_mean(address, self._by_address)
            raise NotFound(
                f"there is no pipeline {address!r}{near}", code="pipeline_not_found"
            ) from None

    def by_id(self, pipeline_id: str) -> Pipeline:
        """The pipeline of that `pipeline_id`. Raises NotFound, naming the nearest one."""
        try:
            return self._by_address[self._address_of_id[pipeline_id]]
        except KeyError:
            near = did_you_mean(pipeline_id, self._address_of_id)
            raise NotFound(
                f"there is no pipeline with the id {pipeline_id!r}{near}",
                code="pipeline_not_found",
            ) from None

    def addresses(self) -> list[str]:
        """All addresses, sorted."""
        return list(self._by_address)

    def __iter__(self) -> Iterator[Pipeline]:
        return iter(self._by_address.values())

    def __len__(self) -> int:
        return len(self._by_address)


def _providers(path: Path, faults: list[Fault]) -> Providers | None:
    """The registry beside the pipelines; None where there is none, or it cannot be read."""
    try:
        return parse_providers(_content(path), str(path))
    except FileNotFoundError:
        return None
    except ConfigError as error:
        faults += error.faults
    except OSError as error:
        faults.append(Fault(str(path), f"cannot be read: {error.strerror}"))
    return None


def _files(root: Path, faults: list[Fault]) -> list[Path]:
    """The pipeline files below `root`; what looks like one and is none becomes a fault."""
    try:
        inside = root.resolve(strict=True)
        todo = sorted(root.iterdir(), reverse=True)
    except OSError as error:
        faults.append(Fault(str(root), f"cannot be read: {error.strerror}"))
        return []
    files: list[Path] = []
    while todo:
        path = todo.pop()
        parts = path.relative_to(root).parts
        if path.name.startswith(".") or parts == (NOT_PIPELINES,):
            continue
        try:
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                faults.append(Fault(str(path), "is a link that leads out of the folder"))
            elif path.is_dir():
                if path.is_symlink():
                    faults.append(Fault(str(path), "is a link to a folder: put the folder here"))
                else:
                    todo += sorted(path.iterdir(), reverse=True)
            elif path.suffix in {SUFFIX, ".yaml"} and (wrong := _wrong(path, parts)):
                faults.append(Fault(str(path), wrong))
            elif path.suffix == SUFFIX:
                files.append(path)
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
            faults.append(Fault(str(path), f"cannot be read: {error}"))
    return files


def _wrong(path: Path, parts: tuple[str, ...]) -> str | None:
    """Why a file that ends like a pipeline cannot be one, or None."""
    if path.suffix != SUFFIX:
        return f"must end in {SUFFIX}"
    if len(parts) not in {3, 4}:
        return f"is in the wrong place: {_SHAPE}"
    for part in (*parts[:-1], path.stem):
        if not PART.fullmatch(part):
            return f"has the name {part!r} in its path, which must match {PART.pattern}"
    if not S_ISREG(path.stat().st_mode):
        return "is no regular file"
    return None


def _content(path: Path) -> bytes:
    from shared.core.yaml import MAX_BYTES  # noqa: PLC0415  # not for a compiled catalog

    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)  # the parser refuses what is larger


def _doubles(found: list[tuple[Path, Pipeline]]) -> list[Fault]:
    """A fault for every second file with the address or the id of another one."""
    faults: list[Fault] = []
    first: dict[tuple[str, str], Path] = {}
    for path, pipeline in found:
        for what, name in (("address", pipeline.address), ("pipeline_id", pipeline.pipeline_id)):
            other = first.setdefault((what, name), path)
            if other is not path:
                faults.append(Fault(str(path), f"has the {what} {name!r}, as {other} has"))
    return faults
