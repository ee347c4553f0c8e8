"""What a provider has delivered for one billing period: the newest manifest and the files it names.

AWS Data Exports lays an export out as `{export}/data/BILLING_PERIOD=YYYY-MM/…` for the files and
`{export}/metadata/BILLING_PERIOD=YYYY-MM/…` for the manifest, which is written after the last file.
In overwrite mode there is one manifest and files change under the same names; in create-new mode every
refresh adds a full copy of the month in a folder `{time}-{execution id}`, with a manifest of its own in
the same folder below `metadata`, and the manifest of the period names the latest. So a folder is never
listed for files: the manifest says which belong together.
https://docs.aws.amazon.com/cur/latest/userguide/dataexports-export-delivery.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import NamedTuple

import msgspec

from shared.core.record import Document
from shared.errors import Terminal
from shared.objects import ObjectInfo, ObjectStore

MANIFEST_LIMIT = 16 * 1024 * 1024
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://[^/]+/")
# 2025-12-28T13:14:37.728Z-… and 20250307T053621Z-…: both are seen in the folders of runs
_RUN_TIME = re.compile(
    r"(?<![0-9])(\d{4})-?(\d{2})-?(\d{2})T(\d{2}):?(\d{2}):?(\d{2})(?:\.(\d{1,6})\d*)?Z"
)


class DeliveredFile(NamedTuple):
    """A data file that the manifest names and the store has. `rows` is what the manifest promises."""

    info: ObjectInfo
    rows: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One billing period as its newest manifest has it. `made_at` orders deliveries of a period.

    It is the time in the name of the run (execution id or folder), else the manifest's own time in the
    store. The manifest has no field for it. `rows` is the number it promises for all files together.
    """

    period: date
    manifest: ObjectInfo
    execution_id: str
    made_at: datetime
    files: tuple[DeliveredFile, ...]
    rows: int | None

    @property
    def confirmed_empty(self) -> bool:
        """The provider says itself that there are no rows; a missing number says nothing."""
        if self.rows is not None:
            return self.rows == 0
        return bool(self.files) and all(file.rows == 0 for file in self.files)

    @property
    def source_version(self) -> str:
        digest = sha256()
        for file in self.files:
            digest.update(f"{file.info.key}\0{file.info.version}\0{file.info.size}\n".encode())
        return f"{self.execution_id}#{digest.hexdigest()[:16]}"

    @property
    def objects(self) -> tuple[str, ...]:
        """The manifest and its files, each with its version, for the evidence."""
        infos = (self.manifest, *(file.info for file in self.files))
        return tuple(f"{info.key}@{info.version}" for info in infos)


class _NamedFile(Document, frozen=True, kw_only=True, rename="camel"):
    """A file with its sizes, in the words that Azure's manifests use. AWS gives the path alone."""

    blob_name: str
    byte_count: int | None = None
    data_row_count: int | None = None


class _Manifest(Document, frozen=True, kw_only=True, rename="camel"):
    execution_id: str = ""
    data_files: list[str | _NamedFile]
    data_row_count: int | None = None


def newest(store: ObjectStore, export: str, period: date) -> Delivery:
    """The newest delivery of the period.

    Raises Terminal: `manifest_missing`, `manifest_unreadable`, `manifest_path` (a file outside the
    export's folder of that period), `file_missing`, `file_size`, `row_count` (the manifest contradicts
    itself).
    """
    folder = f"BILLING_PERIOD={period:%Y-%m}"
    expected = f"{export}/metadata/{folder}/{export}-Manifest.json"
    found = [
        info
        for info in store.list(f"{export}/metadata/{folder}/")
        if info.key.endswith(f"/{export}-Manifest.json")
    ]
    if not found:
        raise Terminal(
            f"no manifest for {period:%Y-%m}: expected {expected}. The provider writes it after the "
            f"files of the month: check the source, the export's name and the dates, or wait for "
            f"the first delivery",
            code="manifest_missing",
        )
    # The manifest of the period is the latest run's; where folders were copied, trust the times.
    runs = [info for info in found if info.key != expected]
    candidates = [info for info in found if info.key == expected]
    if runs:
        candidates.append(max(runs, key=lambda info: _time(info.key) or info.modified_at))
    manifests = [_read(store, info) for info in candidates]
    deliveries = zip(candidates, manifests, strict=True)
    info, manifest = max(deliveries, key=lambda pair: _made_at(*pair))
    return _delivery(store, export, period, info, manifest)


def _read(store: ObjectStore, info: ObjectInfo) -> _Manifest:
    try:
        return msgspec.json.decode(store.read(info.key, MANIFEST_LIMIT), type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Terminal(
            f"{info.key}: is no manifest of a data export: {exc}", code="manifest_unreadable"
        ) from exc


def _made_at(info: ObjectInfo, manifest: _Manifest) -> datetime:
    paths = [_path(file) for file in manifest.data_files[:1]]
    for text in (manifest.execution_id, info.key, *paths):
        found = _time(text)
        if found is not None:
            return found
    return info.modified_at


def _time(text: str) -> datetime | None:
    found = _RUN_TIME.search(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    micro = int((found.group(7) or "0").ljust(6, "0"))
    try:
        return datetime(year, month, day, hour, minute, second, micro, tzinfo=UTC)
    except ValueError:
        return None


def _delivery(
    store: ObjectStore, export: str, period: date, info: ObjectInfo, manifest: _Manifest
) -> Delivery:
    files: dict[str, DeliveredFile] = {}
    for named in manifest.data_files:
        key = _key(_path(named), export, period, info.key)
        if key in files:
            raise Terminal(
                f"{info.key}: names {key} twice; reading it twice would double its costs",
                code="manifest_unreadable",
            )
        files[key] = _found(store, key, named, info.key)
    counts = [file.rows for file in files.values()]
    total = manifest.data_row_count
    if total is None and counts and None not in counts:
        total = sum(count for count in counts if count is not None)
    elif total is not None and None not in counts and total != sum(count or 0 for count in counts):
        raise Terminal(
            f"{info.key}: promises {total:,} rows, its files together "
            f"{sum(count or 0 for count in counts):,}",
            code="row_count",
        )
    elif total is not None and len(files) == 1:
        files = {key: file._replace(rows=total) for key, file in files.items()}
    return Delivery(
        period=period,
        manifest=info,
        execution_id=manifest.execution_id or info.version,
        made_at=_made_at(info, manifest),
        files=tuple(files.values()),
        rows=total,
    )


def _path(named: str | _NamedFile) -> str:
    return named if isinstance(named, str) else named.blob_name


def _found(store: ObjectStore, key: str, named: str | _NamedFile, manifest: str) -> DeliveredFile:
    info = store.info(key)
    if info is None:
        raise Terminal(
            f"{key}: is named by {manifest}, and is not there. A delivery in progress replaces its "
            f"files before its manifest: run again when the new manifest is written",
            code="file_missing",
        )
    if isinstance(named, str):
        return DeliveredFile(info, None)
    if named.byte_count is not None and named.byte_count != info.size:
        raise Terminal(
            f"{key}: has {info.size:,} bytes, {manifest} promises {named.byte_count:,}",
            code="file_size",
        )
    return DeliveredFile(info, named.data_row_count)


def _key(path: str, export: str, period: date, manifest: str) -> str:
    """The key below the source's root for a path as the manifest writes it.

    A manifest names `s3://bucket/prefix/{export}/data/BILLING_PERIOD=…/file`, while the source may be
    that prefix or a copy of it elsewhere. What is the same everywhere begins at the export's folder;
    and whatever leads elsewhere than to the files of this period is refused.
    """
    partition = [export, "data", f"BILLING_PERIOD={period:%Y-%m}"]
    parts = _SCHEME.sub("", path, count=1).split("/")
    starts = [at for at in range(len(parts) - len(partition)) if parts[at : at + 3] == partition]
    if parts[:2] == partition[1:]:
        parts, starts = [export, *parts], [0]
    key = parts[starts[0] :] if starts else []
    if not key or any(part in {"", ".", ".."} for part in key) or "\0" in path:
        raise Terminal(
            f"{manifest}: names {path}, which is not in {'/'.join(partition)}/ and is not read",
            code="manifest_path",
        )
    return "/".join(key)
