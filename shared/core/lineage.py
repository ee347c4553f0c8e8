"""Where a row comes from: the seven columns that only the writer stamps, and the slice they name."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from shared.core.record import Document

NO_CREDENTIAL = "none"
FIRST_DAY = "first_day"  # in a credential's metadata: no day before it is expected to be loaded
SLUG = re.compile(r"[a-z][a-z0-9_]{2,49}")

LINEAGE_COLUMNS = (
    "x_org_slug",
    "x_pipeline_id",
    "x_credential_id",
    "x_pipeline_run_date",
    "x_run_id",
    "x_ingested_at",
    "x_ingestion_date",
)


class Slice(NamedTuple):
    """The rows that one load replaces, and the least a load can replace."""

    org: str
    pipeline_id: str
    credential_id: str
    run_date: date


class Fence(NamedTuple):
    """Orders the loads of a slice: a load behind a greater fence is superseded and writes nothing.

    First by the age of the source (a manifest's time, or when an extraction began), then by the run's
    creation, then by the attempt: a worker that froze and woke up has the smaller one.
    """

    source_at: datetime
    run_created_at: datetime
    attempt: int


class Writer(NamedTuple):
    """Who loads: what the lineage columns and the commit marker say besides the slice."""

    run_id: str
    step_id: str
    fence: Fence


class SliceCount(Document, frozen=True, kw_only=True):
    """What one load left in one slice."""

    run_date: date
    rows: int
    rejected: int = 0


class Total(Document, frozen=True, kw_only=True):
    """A money column of a load, per currency. Exact: `source = loaded + rejected + residue`.

    `source` is the sum of the source's own digits, `residue` what rounding to the column's scale took
    from `rounded` of the rows.
    """

    column: str
    currency: str
    source: Decimal
    loaded: Decimal
    rejected: Decimal = Decimal(0)
    residue: Decimal = Decimal(0)
    rounded: int = 0


class Finding(Document, frozen=True, kw_only=True):
    """Something a person should know of the data that is no reason to refuse it."""

    code: str
    message: str
    rows: int = 0


class Verdict(StrEnum):
    """What came of holding a total of ours against the provider's own."""

    MATCHED = "matched"
    DRIFT = "drift"
    UNVERIFIABLE = "unverifiable"


class Reconciliation(Document, frozen=True, kw_only=True):
    """What was loaded against what the provider says itself of the same days, in one currency.

    `loaded` is what the table holds and the residue of its rounding: the digits as they were read. `told`
    is None where the provider gives no total; `by` says what it is, or why there is none.
    """

    table: str
    column: str
    currency: str
    start_date: date
    end_date: date
    loaded: Decimal
    told: Decimal | None
    verdict: Verdict
    by: str


class LoadReceipt(Document, frozen=True, kw_only=True):
    """The proof of a committed load: `extracted = loaded + rejected + deduplicated`."""

    table: str
    source_version: str
    source_at: datetime
    extracted: int
    loaded: int
    rejected: int = 0
    deduplicated: int = 0
    slices: tuple[SliceCount, ...] = ()
    totals: tuple[Total, ...] = ()
    checksum: str = ""
    added_columns: tuple[str, ...] = ()
    unknown_columns: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    committed_at: datetime | None = None


class Evidence(Document, frozen=True, kw_only=True):
    """Why a step may call itself completed."""

    credential_id: str = NO_CREDENTIAL
    credential_version: str = ""
    objects: tuple[str, ...] = ()
    loads: tuple[LoadReceipt, ...] = ()
    reconciliations: tuple[Reconciliation, ...] = ()
    findings: tuple[Finding, ...] = ()


def dataset_of(org: str, environment: str) -> str:
    """The organization's dataset. Raises ValueError for a slug that is none."""
    if not SLUG.fullmatch(org):
        raise ValueError(f"organization {org!r}: a slug is {SLUG.pattern}")
    return f"{org}_{environment}"
