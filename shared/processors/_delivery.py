"""What a provider has delivered for one unit: a month by its newest manifest, or a day by its files.

AWS Data Exports lays an export out as `{export}/data/BILLING_PERIOD=YYYY-MM/…` for the files and
`{export}/metadata/BILLING_PERIOD=YYYY-MM/…` for the manifest, which is written after the last file.
In overwrite mode there is one manifest and files change under the same names; in create-new mode every
refresh adds a full copy of the month in a folder `{time}-{execution id}`, with a manifest of its own in
the same folder below `metadata`, and the manifest of the period names the latest. So a folder is never
listed for files: the manifest says which belong together.
https://docs.aws.amazon.com/cur/latest/userguide/dataexports-export-delivery.html

Azure lays one out as `{export}/{first day}-{last day}/{time}/{run id}/`, with the files of a run and their
`manifest.json` together; while exports overwrite, the time is left out.
https://learn.microsoft.com/azure/cost-management-billing/costs/tutorial-improved-exports

Oracle writes no manifest: `FOCUS Reports/{year}/{month}/{day}/` gets a file every six hours or so, and what
is late or corrected comes as rows of a later file. All files of a day add up.
https://docs.oracle.com/iaas/Content/Billing/Concepts/costusagereportsoverview.htm
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple, TypeVar

import msgspec

from shared.core.period import Unit
from shared.core.record import Document
from shared.errors import Terminal, Transient
from shared.objects import ObjectInfo, ObjectStore

M = TypeVar("M", bound=Document)

MANIFEST_LIMIT = 16 * 1024 * 1024
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://[^/]+/")
# 2025-12-28T13:14:37.728Z-… and 20250307T053621Z-…: both are seen in the folders of runs
_RUN_TIME = re.compile(
    r"(?<![0-9])(\d{4})-?(\d{2})-?(\d{2})T(\d{2}):?(\d{2}):?(\d{2})(?:\.(\d{1,6})\d*)?Z"
)

_FOLDER_TIME = re.compile(r"/(20[0-9]{10})/[^/]+/manifest\.json$")


class DeliveredFile(NamedTuple):
    """A data file that the manifest names and the store has. `rows` is what the manifest promises."""

    info: ObjectInfo
    rows: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One unit as its newest manifest has it, or its files. `made_at` orders deliveries of a unit.

    It is the time in the name of the run (execution id or folder), else the manifest's own time in the
    store, and without a manifest the time of the newest file. `rows` is the number that is promised for
    all files together. `told_by` is where it stands: a manifest, or the folder of the day.
    """

    period: date
    unit: Unit
    told_by: str
    manifest: ObjectInfo | None
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
        infos = [file.info for file in self.files]
        if self.manifest is not None:
            infos.insert(0, self.manifest)
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


class _Run(Document, frozen=True, kw_only=True, rename="camel"):
    run_id: str = ""
    submitted_time: str = ""


class _AzureManifest(Document, frozen=True, kw_only=True, rename="camel"):
    blobs: list[_NamedFile]
    data_row_count: int | None = None
    run_info: _Run = _Run()


class Layout(StrEnum):
    """Whose folders a snapshot is delivered in."""

    AWS = "aws"
    AZURE = "azure"


def newest(store: ObjectStore, export: str, period: date, layout: Layout) -> Delivery:
    """The newest delivery of the period.

    Raises Terminal: `manifest_missing`, `manifest_unreadable`, `manifest_path` (a file outside the
    export's folder of that period), `file_missing`, `file_size`, `row_count` (the manifest contradicts
    itself); Transient `delivery_in_progress`.
    """
    match layout:
        case Layout.AWS:
            return _newest_of_aws(store, export, period)
        case Layout.AZURE:
            return _newest_of_azure(store, export, period)


def delivered_day(store: ObjectStore, export: str, day: date) -> Delivery | None:
    """The files of a day's folder, or None while there is none."""
    folder = f"{export}/{day:%Y/%m/%d}/"
    files = [
        DeliveredFile(info, None)
        for info in store.list(folder)
        if info.key.endswith((".csv", ".csv.gz"))
    ]
    if not files:
        return None
    return Delivery(
        period=day,
        unit=Unit.DAY,
        told_by=folder,
        manifest=None,
        execution_id=f"{len(files)} files",
        made_at=max(file.info.modified_at for file in files),
        files=tuple(files),
        rows=None,
    )


def _newest_of_azure(store: ObjectStore, export: str, period: date) -> Delivery:
    folder = f"{export}/{period:%Y%m%d}-{Unit.MONTH.last(period):%Y%m%d}"
    found = [info for info in store.list(f"{folder}/") if info.key.endswith("/manifest.json")]
    if not found:
        raise _no_manifest(period, f"{folder}/…/manifest.json")
    info = max(found, key=lambda info: (_folder_time(info.key) or info.modified_at, info.key))
    said = _read(store, info, _AzureManifest)
    manifest = _Manifest(
        execution_id=said.run_info.run_id,
        data_files=[*said.blobs],
        data_row_count=said.data_row_count,
    )
    made_at = _time(said.run_info.submitted_time) or _folder_time(info.key) or info.modified_at
    # A manifest names its files from the container on; they lie beside it.
    return _delivery(store, period, info, manifest, made_at, lambda path: _beside(path, info.key))


def _newest_of_aws(store: ObjectStore, export: str, period: date) -> Delivery:
    folder = f"BILLING_PERIOD={period:%Y-%m}"
    expected = f"{export}/metadata/{folder}/{export}-Manifest.json"
    found = [
        info
        for info in store.list(f"{export}/metadata/{folder}/")
        if info.key.endswith(f"/{export}-Manifest.json")
    ]
    if not found:
        raise _no_manifest(period, expected)
    # The manifest of the period is the latest run's; where folders were copied, trust the times.
    runs = [info for info in found if info.key != expected]
    candidates = [info for info in found if info.key == expected]
    if runs:
        candidates.append(max(runs, key=lambda info: _time(info.key) or info.modified_at))
    manifests = [_read(store, info, _Manifest) for info in candidates]
    deliveries = zip(candidates, manifests, strict=True)
    info, manifest = max(deliveries, key=lambda pair: _made_at(*pair))
    return _delivery(
        store,
        period,
        info,
        manifest,
        _made_at(info, manifest),
        lambda path: _key(path, export, period, info.key),
    )


def _no_manifest(period: date, expected: str) -> Terminal:
    return Terminal(
        f"no manifest for {period:%Y-%m}: expected {expected}. The provider writes it after the "
        f"files of the month: check the source, the export's name and the dates, or wait for "
        f"the first delivery",
        code="manifest_missing",
    )


def _read(store: ObjectStore, info: ObjectInfo, kind: type[M]) -> M:
    try:
        return msgspec.json.decode(store.read(info.key, MANIFEST_LIMIT), type=kind)
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


def _folder_time(key: str) -> datetime | None:
    """The time in the name of a run's folder: its year to its minute."""
    found = _FOLDER_TIME.search(key)
    if found is None:
        return None
    try:
        return datetime.strptime(found[1], "%Y%m%d%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None


def _delivery(
    store: ObjectStore,
    period: date,
    info: ObjectInfo,
    manifest: _Manifest,
    made_at: datetime,
    key_of: Callable[[str], str],
) -> Delivery:
    files: dict[str, DeliveredFile] = {}
    for named in manifest.data_files:
        key = key_of(_path(named))
        if key in files:
            raise Terminal(
                f"{info.key}: names {key} twice; reading it twice would double its costs",
                code="manifest_unreadable",
            )
        files[key] = _found(store, key, named, info)
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
        unit=Unit.MONTH,
        told_by=info.key,
        manifest=info,
        execution_id=manifest.execution_id or info.version,
        made_at=made_at,
        files=tuple(files.values()),
        rows=total,
    )


def _path(named: str | _NamedFile) -> str:
    return named if isinstance(named, str) else named.blob_name


def _found(
    store: ObjectStore, key: str, named: str | _NamedFile, manifest: ObjectInfo
) -> DeliveredFile:
    info = store.info(key)
    if info is None:
        raise Terminal(
            f"{key}: is named by {manifest.key}, and is not there. A delivery in progress replaces its "
            f"files before its manifest: run again when the new manifest is written",
            code="file_missing",
        )
    if isinstance(named, str):
        # Nothing but the order in which they are written says that file and manifest belong together.
        if info.modified_at > manifest.modified_at:
            raise Transient(
                f"{key}: is newer than {manifest.key}, so a delivery is in progress; its manifest comes "
                f"last. Of a copy that is complete, copy the manifest again",
                code="delivery_in_progress",
            )
        return DeliveredFile(info, None)
    if named.byte_count is not None and named.byte_count != info.size:
        raise Terminal(
            f"{key}: has {info.size:,} bytes, {manifest.key} promises {named.byte_count:,}",
            code="file_size",
        )
    return DeliveredFile(info, named.data_row_count)


def _beside(path: str, manifest: str) -> str:
    """The key of a file that stands in the folder of its manifest."""
    folder = manifest.rpartition("/")[0]
    parts = path.split("/")
    own = folder.split("/")
    if parts[:-1][-len(own) :] != own or parts[-1] in {"", ".", ".."} or "\0" in path:
        raise Terminal(
            f"{manifest}: names {path}, which is not in its folder and is not read",
            code="manifest_path",
        )
    return f"{folder}/{parts[-1]}"


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
