"""`cloud.billing_export`: a provider's FOCUS export, file by file, into a table of its rows as delivered.

A provider delivers whole months again and again, or files that add up day by day: the unit is the month
or the day. What is there of each unit that the step's days touch replaces what was loaded of it, whole or
not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from shared.core import focus
from shared.core.lineage import Evidence, Finding, LoadReceipt
from shared.core.period import Unit
from shared.core.record import Record
from shared.core.run import Summary
from shared.errors import Terminal, Transient
from shared.objects import ObjectInfo, ObjectStore
from shared.processors._delivery import Delivery, Layout, delivered_day, newest
from shared.processors._focus_file import (
    UNKNOWN,
    ExportReader,
    custom_faults,
    raw_table,
    refuse_empty,
)
from shared.step import StepContext, StepResult, processor
from shared.warehouse import ColumnType, Files, LoadsOf, SourceFile, Table

ColumnName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class Dialect(StrEnum):
    """How a provider delivers an export."""

    MANIFEST_SNAPSHOT = "manifest_snapshot"
    DELTA_FILES = "delta_files"

    @property
    def unit(self) -> Unit:
        return Unit.DAY if self is Dialect.DELTA_FILES else Unit.MONTH


class BillingExportConfig(Record, frozen=True, kw_only=True):
    """Where an export is delivered, and the table that keeps its rows."""

    source: Annotated[
        str,
        Meta(
            min_length=1,
            description="URL of the folder that the export is delivered into: `s3://BUCKET/FOLDER`, "
            "`az://ACCOUNT/CONTAINER/FOLDER`, `oci://BUCKET@NAMESPACE/FOLDER`, `gs://BUCKET/FOLDER`, or "
            "`file:FOLDER` of the organization's objects.",
        ),
    ]
    export_name: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9_-][A-Za-z0-9_. -]*$",
            description="Name of the export: the folder below the source, and how its manifests "
            "begin.",
        ),
    ]
    dialect: Annotated[
        Dialect,
        Meta(
            description="How it is delivered. `manifest_snapshot`: every delivery is the whole "
            "month, and a manifest names its files (AWS, Azure). `delta_files`: the files in the "
            "folder of a day add up, and no manifest names them (Oracle Cloud)."
        ),
    ] = Dialect.MANIFEST_SNAPSHOT
    layout: Annotated[
        Layout,
        Meta(description="Whose folders and manifests a `manifest_snapshot` has."),
    ] = Layout.AWS
    lookback_days: Annotated[
        int,
        Meta(
            ge=0,
            le=400,
            description="Days before the run's first whose units are looked at again. One that is not "
            "there, or is loaded as it is there, is left alone.",
        ),
    ] = 0
    table: Annotated[
        str,
        Meta(
            pattern="^[a-z][a-z0-9_]{0,127}$",
            description="Table of the organization's dataset that keeps the rows as delivered.",
        ),
    ]
    custom_columns: Annotated[
        dict[ColumnName, ColumnType],
        Meta(
            description="Columns of the provider, beyond FOCUS, that get a column of their own, with "
            "their type. Any other unknown column is kept in the JSON column x_unknown."
        ),
    ] = {}
    null_values: Annotated[
        tuple[str, ...],
        Meta(description="Cells of a CSV file that mean null, quoted or not."),
    ] = ("", "NULL")
    max_reject_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Share of rows that may be rejected (a cost that is not a number) before "
            "the load fails. 0: one rejected row fails it.",
        ),
    ] = 0
    allow_empty: Annotated[
        bool,
        Meta(
            description="Accept a delivery without rows although its manifest does not say that "
            "there are none. The month's rows are then removed."
        ),
    ] = False

    def __post_init__(self) -> None:
        faults = custom_faults(self.custom_columns)
        if faults:
            raise ValueError("custom_columns: " + "; ".join(faults))


@processor("cloud.billing_export")
def billing_export(step: StepContext, config: BillingExportConfig) -> StepResult:
    """Loads the newest delivery of a FOCUS export for every unit that the run's days touch."""
    credential = step.credential()
    store = step.objects(config.source)
    # All deliveries are looked at before the first one is loaded: what is missing fails early.
    deliveries = _deliveries(step, config, store)
    for delivery in deliveries:
        if not delivery.files:
            refuse_empty(delivery, allow_empty=config.allow_empty)
    table = raw_table(config.table, config.custom_columns)
    receipts: list[LoadReceipt] = []
    findings: list[Finding] = []
    for delivery in deliveries:
        step.check()
        step.log.info(
            "export.found",
            period=_shown(delivery),
            manifest=delivery.told_by,
            execution_id=delivery.execution_id,
            made_at=delivery.made_at,
            files=len(delivery.files),
        )
        receipt, found = _load(step, config, store, delivery, table)
        receipts.append(receipt)
        findings.extend(found)
    evidence = Evidence(
        credential_id=step.credential_id,
        credential_version=str(credential.info.version),
        objects=tuple(name for delivery in deliveries for name in delivery.objects),
        loads=tuple(receipts),
        findings=tuple(findings),
    )
    return StepResult(summary=_summary(deliveries, evidence), evidence=evidence)


def _deliveries(
    step: StepContext, config: BillingExportConfig, store: ObjectStore
) -> list[Delivery]:
    """Those of the run's own days, and before them what has changed of the days to look back at."""
    unit = config.dialect.unit
    asked = unit.firsts(step.start_date, step.end_date)
    since = step.start_date - timedelta(days=config.lookback_days)
    found = []
    for first in unit.firsts(since, step.start_date):
        if first not in asked:
            earlier = _look_back(config, store, first)
            if earlier is not None and not _loaded(step, config, earlier):
                found.append(earlier)
    return found + [_delivery_of(config, store, first) for first in asked]


def _delivery_of(config: BillingExportConfig, store: ObjectStore, first: date) -> Delivery:
    if config.dialect is Dialect.MANIFEST_SNAPSHOT:
        return newest(store, config.export_name, first, config.layout)
    delivery = delivered_day(store, config.export_name, first)
    if delivery is None:
        raise Terminal(
            f"no file for {first}: expected some in {config.export_name}/{first:%Y/%m/%d}/. They come "
            f"some hours late: check the source and the dates, or run again later",
            code="delivery_missing",
        )
    return delivery


def _look_back(config: BillingExportConfig, store: ObjectStore, first: date) -> Delivery | None:
    try:
        return _delivery_of(config, store, first)
    except Terminal as missing:
        if missing.code in {"manifest_missing", "delivery_missing"}:
            return None
        raise


def _loaded(step: StepContext, config: BillingExportConfig, delivery: Delivery) -> bool:
    slice_ = step.slice(delivery.period)
    held = step.warehouse.loads(
        step.dataset,
        LoadsOf(
            pipelines=(slice_.pipeline_id,),
            credential_id=slice_.credential_id,
            tables=(config.table,),
            first=delivery.period,
            last=delivery.period,
        ),
    )
    return any(load.source_version == delivery.source_version for load in held)


def _shown(delivery: Delivery) -> str:
    return f"{delivery.period:%Y-%m}" if delivery.unit is Unit.MONTH else f"{delivery.period}"


def _load(
    step: StepContext,
    config: BillingExportConfig,
    store: ObjectStore,
    delivery: Delivery,
    table: Table,
) -> tuple[LoadReceipt, list[Finding]]:
    reader = ExportReader(
        delivery=delivery,
        table=table,
        null_values=config.null_values,
        allow_empty=config.allow_empty,
    )
    files = [
        SourceFile(file.info.key, partial(_fetched, store, file.info), file.rows)
        for file in delivery.files
    ]
    receipt = step.load(
        table,
        Files(files=files, read=reader.read),
        covers=frozenset({step.slice(delivery.period)}),
        source_version=delivery.source_version,
        source_at=delivery.made_at,
        totals=focus.COSTS,
        currency_column="BillingCurrency",
        unknown_column=UNKNOWN,
        max_reject_ratio=Decimal(str(config.max_reject_ratio)),
    )
    findings = list(reader.findings.values())
    if delivery.rows is not None and delivery.rows != receipt.extracted:
        # only where a manifest counts all files together; one count a file is checked by the load
        findings.append(
            Finding(
                code="row_count",
                message=f"{delivery.told_by} promises {delivery.rows:,} rows, "
                f"its files have {receipt.extracted:,}",
                rows=abs(delivery.rows - receipt.extracted),
            )
        )
    return receipt, findings


@contextmanager
def _fetched(store: ObjectStore, info: ObjectInfo) -> Iterator[Path]:
    """The file's content as it was when the delivery was looked at, or the load fails.

    In overwrite mode a refresh replaces files under their names before it writes its manifest.
    """
    with store.fetch(info.key) as path:
        try:
            yield path
        except Terminal as exc:  # what is wrong with a file that is just being written mends itself
            _refuse_changed(store, info, exc)
            raise
    _refuse_changed(store, info)


def _refuse_changed(store: ObjectStore, info: ObjectInfo, cause: Terminal | None = None) -> None:
    now = store.info(info.key)
    if now is None or now.version != info.version:
        raise Transient(
            f"{info.key}: was replaced while it was read; its new manifest will follow",
            code="export_changed",
        ) from cause


def _summary(deliveries: list[Delivery], evidence: Evidence) -> Summary:
    loaded = sum(receipt.loaded for receipt in evidence.loads)
    rejected = sum(receipt.rejected for receipt in evidence.loads)
    extracted = sum(receipt.extracted for receipt in evidence.loads)
    warnings = len(evidence.findings) + sum(len(receipt.findings) for receipt in evidence.loads)
    first, last = _shown(deliveries[0]), _shown(deliveries[-1])
    span = first if first == last else f"{first} to {last}"
    files = sum(len(delivery.files) for delivery in deliveries)
    return Summary(
        extracted=extracted,
        loaded=loaded,
        rejected=rejected,
        deduplicated=sum(receipt.deduplicated for receipt in evidence.loads),
        no_data=extracted == 0,
        warnings=warnings + (1 if rejected else 0),
        message=f"{span}: {loaded:,} rows from {files} file{'' if files == 1 else 's'}",
    )
