"""Exports as AWS delivers them, with whatever a test wants to be wrong with them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from shared.core.period import month_after

Row = Mapping[str, str]


def row(number: int, period: str = "2025-02", **changes: str) -> dict[str, str]:
    """One charge of the period: 0.1 USD and `number` millionths, with the given cells changed."""
    cost = f"0.1{number:06d}"
    start = date.fromisoformat(f"{period}-01")
    cells = {
        "AvailabilityZone": "",
        "BilledCost": cost,
        "BillingAccountId": "100000000001",
        "BillingAccountName": "payer",
        "BillingCurrency": "USD",
        "BillingPeriodEnd": f"{month_after(start)}T00:00:00Z",
        "BillingPeriodStart": f"{period}-01T00:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeDescription": f"charge {number}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": f"{period}-03T00:00:00Z",
        "ChargePeriodStart": f"{period}-02T00:00:00Z",
        "ConsumedQuantity": "1",
        "ConsumedUnit": "Hours",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceIssuerName": "Amazon Web Services, Inc.",
        "ListCost": cost,
        "PricingCategory": "Standard",
        "PricingQuantity": "1",
        "PricingUnit": "Hours",
        "ProviderName": "AWS",
        "PublisherName": "Amazon Web Services, Inc.",
        "RegionId": "us-east-1",
        "ResourceId": f"i-{number}",
        "ServiceCategory": "Compute",
        "ServiceName": "Amazon Elastic Compute Cloud",
        "SkuId": "",
        "SkuPriceId": "",
        "SubAccountId": "200000000002",
        "Tags": '{"team": "a"}',
        "x_Discounts": "{}",
        "x_Operation": "RunInstances",
        "x_ServiceCode": "AmazonEC2",
    }
    return cells | changes


HEADER = tuple(row(0))


def csv_text(rows: Iterable[Row], header: Sequence[str] = HEADER) -> str:
    """The rows as CSV with a header. Cells outside of it are left out."""
    out = io.StringIO()
    writer = csv.DictWriter(out, header, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def csv_gz(rows: Iterable[Row], header: Sequence[str] = HEADER) -> bytes:
    return gzip.compress(csv_text(rows, header).encode(), mtime=0)


@dataclass(frozen=True, slots=True)
class Export:
    """An export in a folder that is a source of exports."""

    source: Path
    name: str = "costs"

    def file(self, period: str, name: str, content: bytes, run: str = "") -> str:
        """Writes a data file and returns the path that a manifest has for it."""
        key = f"{self.name}/data/BILLING_PERIOD={period}/{run + '/' if run else ''}{name}"
        path = self.source / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"s3://bucket/some/prefix/{key}"

    def manifest(
        self,
        period: str,
        files: Sequence[object],
        *,
        execution_id: str = "6f0e8f7a-0000-4000-8000-000000000001",
        run: str = "",
        modified_at: datetime | None = None,
        **fields: object,
    ) -> Path:
        """Writes the manifest of the period, or that of a run in create-new mode."""
        folder = self.source / self.name / "metadata" / f"BILLING_PERIOD={period}" / run
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}-Manifest.json"
        content = {"executionId": execution_id, "dataFiles": list(files), **fields}
        path.write_text(json.dumps(content))
        if modified_at is not None:
            stamp = modified_at.astimezone(UTC).timestamp()
            # A provider writes its manifest last.
            written = [self.source / one.partition("prefix/")[2] for one in map(str, files)]
            for each in (*filter(Path.is_file, written), path):
                os.utime(each, (stamp, stamp))
        return path

    def deliver(self, period: str, *parts: Sequence[Row], at: datetime | None = None) -> Path:
        """A delivery in overwrite mode: a gzip CSV file for each part, and the manifest."""
        paths = [
            self.file(period, f"{self.name}-{number:05d}.csv.gz", csv_gz(rows))
            for number, rows in enumerate(parts, start=1)
        ]
        return self.manifest(period, paths, modified_at=at)


@dataclass(frozen=True, slots=True)
class AzureExport:
    """An export of Azure's Cost Management in a folder that is a source of exports."""

    source: Path
    name: str = "daily"

    def deliver(
        self,
        period: str,
        *parts: Sequence[Row],
        time: str = "202502150730",
        header: Sequence[str] = HEADER,
        **changes: object,
    ) -> Path:
        """One run: a CSV file for each part, and then its manifest."""
        first = date.fromisoformat(f"{period}-01")
        last = month_after(first) - timedelta(days=1)
        folder = f"{self.name}/{first:%Y%m%d}-{last:%Y%m%d}/{time}/run-{time}"
        (self.source / folder).mkdir(parents=True)
        submitted = datetime.strptime(time, "%Y%m%d%H%M").replace(tzinfo=UTC)
        blobs: list[dict[str, object]] = []
        for number, rows in enumerate(parts, start=1):
            content = csv_gz(rows, header)
            key = f"{folder}/part_0_{number:04d}.csv.gz"
            (self.source / key).write_bytes(content)
            blob = {
                "blobName": f"costs/{key}",
                "byteCount": len(content),
                "dataRowCount": len(rows),
            }
            blobs.append(blob)
        said = {
            "blobCount": len(blobs),
            "dataRowCount": sum(map(len, parts)),
            "blobs": blobs,
            "runInfo": {
                "runId": f"run-{time}",
                "submittedTime": f"{submitted:%Y-%m-%dT%H:%M:%S}.5Z",
            },
        }
        manifest = self.source / folder / "manifest.json"
        manifest.write_text(json.dumps(said | changes))
        return manifest
