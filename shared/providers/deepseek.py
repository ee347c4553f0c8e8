"""DeepSeek: the usage exports of its console, which somebody puts where the credential's `source` says.

DeepSeek has no API for usage (https://api-docs.deepseek.com). The console (Usage > Export) gives a zip of
two CSV files, `amount-….csv` and `cost-….csv`; the zip is read as it is, and so are the two files beside
each other. The amount file tells the price of each row, at which the hour of the day has been looked at;
the cost file tells the currency, and the sums that the amounts are held against.

A day is one of the account's, as the export writes it. An export answers for the days from the first one
in its name to the last one that has a row: what comes after may have been used when it was made. The
column `api_key` is a secret, and is dropped where a row is read.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from calendar import monthrange
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import IO

from shared.core.focus import CostBasis
from shared.core.genai import Cost, Dimensions, Meter, Usage, priced_per, unit_of
from shared.core.nearmiss import clipped, listed
from shared.core.period import days
from shared.errors import Terminal
from shared.objects import ObjectInfo
from shared.providers import Access, Feed, Page, Span, Total
from shared.providers.buckets import currency, decimal

_ROWS = 5_000  # of a page
_NAME = re.compile(
    r"(?:^|/)(?P<kind>amount|cost)-"
    r"(?P<first>\d{4}-\d{1,2}(?:-\d{1,2})?)(?:_(?P<last>\d{4}-\d{1,2}-\d{1,2}))?\.csv$"
)
_DAY_COLUMNS = ("utc_date", "start_time_iso")
_AMOUNT_COLUMNS = ("model", "api_key_name", "type", "price", "amount")
_COST_COLUMNS = ("model", "wallet_type", "cost", "currency")
_METERS: Mapping[str, Meter] = MappingProxyType(
    {
        "input_cache_hit_tokens": Meter.CACHED_INPUT,
        "input_cache_miss_tokens": Meter.INPUT,
        "output_tokens": Meter.OUTPUT,
        "request_count": Meter.REQUESTS,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A row of an amount file. `price` is of one token; None where there is none."""

    day: date
    of: Dimensions
    type: str
    meter: Meter
    amount: Decimal
    price: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Export:
    """A pair of files, each in an object: the CSV itself, or a zip that holds it."""

    first: date
    last: date
    amount: tuple[ObjectInfo, str]
    cost: tuple[ObjectInfo, str]


class DeepSeek:
    """See the module."""

    def usage(self, access: Access) -> Sequence[Feed[Usage]]:
        """The amounts of the exports."""
        _source(access)
        return [Feed("usage export", partial(_usage, access))]

    def costs(self, access: Access) -> Sequence[Feed[Cost]]:
        """The amounts of the exports, each at the price that stands beside it."""
        _source(access)
        return [Feed("usage export (amounts at their prices)", partial(_costs, access))]

    def totals(self, access: Access, span: Span) -> Iterator[Total]:
        """The cost files: what was taken from the wallets, paid and granted ones alike."""
        for export, own in _chosen(access, span).items():
            for day, row in _read(access, export.cost, _COST_COLUMNS):
                if day in own:
                    where = export.cost[1]
                    money = currency(where, row["currency"])
                    yield Total(day, money, decimal(where, "cost", row["cost"]))


def _usage(access: Access, span: Span) -> Iterator[Page[Usage]]:
    for export, own in _chosen(access, span).items():
        rows = (row for row in _rows(access, export) if row.day in own)
        while batch := list(islice(rows, _ROWS)):
            yield Page(
                rows=[
                    Usage(day=row.day, of=row.of, meter=row.meter, quantity=row.amount)
                    for row in batch
                    if row.amount
                ],
                days=(),
            )
        yield Page(rows=(), days=own)


def _costs(access: Access, span: Span) -> Iterator[Page[Cost]]:
    for export, own in _chosen(access, span).items():
        currencies = _currencies(access, export)
        priced = (row for row in _rows(access, export) if row.day in own and row.price is not None)
        while batch := list(islice(priced, _ROWS)):
            yield Page(rows=[_cost(export, row, currencies) for row in batch], days=())
        yield Page(rows=(), days=own)


def _cost(export: _Export, row: _Row, currencies: Mapping[tuple[date, str], str]) -> Cost:
    model = row.of.model or ""
    money = currencies.get((row.day, model))
    if money is None:
        raise Terminal(
            f"{export.cost[1]}: has no row of {row.day} and {clipped(model)}, which {export.amount[1]} has, "
            f"so that the currency is not known. Export both files anew",
            code="export_incomplete",
        )
    price = row.price or Decimal(0)
    unit = unit_of(row.meter)
    return Cost(
        day=row.day,
        of=row.of,
        line_item=f"{model}, {row.type}",
        meter=row.meter,
        amount=price * row.amount,
        currency=money,
        quantity=row.amount,
        unit=unit,
        unit_price=price * priced_per(unit).size,
        basis=CostBasis.PROVIDER_EXPORT,
    )


def _currencies(access: Access, export: _Export) -> dict[tuple[date, str], str]:
    """The currency of each day and model. Raises Terminal where the wallets have several."""
    where = export.cost[1]
    found: dict[tuple[date, str], str] = {}
    for day, row in _read(access, export.cost, _COST_COLUMNS):
        money = currency(where, row["currency"])
        if found.setdefault((day, row["model"]), money) != money:
            raise Terminal(
                f"{where}: {day} of {clipped(row['model'])} is in {found[day, row['model']]} and in {money}; "
                f"which of them the prices are in is not told",
                code="export_ambiguous",
            )
    return found


def _rows(access: Access, export: _Export) -> Iterator[_Row]:
    where = export.amount[1]
    for day, row in _read(access, export.amount, _AMOUNT_COLUMNS):
        meter = _METERS.get(row["type"])
        if meter is None:
            raise Terminal(
                f"{where}: counts {clipped(row['type'])}, which is not known here; known: "
                f"{listed(_METERS)}",
                code="unknown_meter",
            )
        # One day has a type at several prices, by the hour: the price tells its rows apart.
        price = decimal(where, "price", row["price"]) if row["price"].strip() else None
        priced = None if meter is Meter.REQUESTS else price
        amount = decimal(where, "amount", row["amount"])
        if amount < 0 or (priced is not None and priced < 0):
            raise Terminal(
                f"{where}: {day} has a negative amount or price", code="unexpected_answer"
            )
        if meter is not Meter.REQUESTS and amount and priced is None:
            raise Terminal(f"{where}: {day} has {row['type']} without a price", code="unpriced")
        yield _Row(
            day=day,
            of=Dimensions(
                account_id=access.account,
                api_key_id=row["api_key_name"] or None,
                model=row["model"] or None,
                variant=None if priced is None else f"at {row['price'].strip()}",
            ),
            type=row["type"],
            meter=meter,
            amount=amount,
            price=priced,
        )


# -- which export answers for which day


def _source(access: Access) -> str:
    source = access.fields.get("source")
    if not isinstance(source, str) or not source:
        raise Terminal(
            "no usage source: DeepSeek's API tells no usage, and the credential names no folder of "
            "exports. Store a credential whose `source` is where the console's exports are put",
            code="no_usage_source",
        )
    return source


def _chosen(access: Access, span: Span) -> dict[_Export, set[date]]:
    """The exports to read, each with its days: of several that answer for a day, the newest."""
    found = [
        export
        for export in _exports(access)
        if export.first <= span.last and export.last >= span.first
    ]
    chosen: dict[_Export, set[date]] = {}
    left = set(days(*span))
    for export in sorted(found, key=lambda one: one.amount[0].modified_at, reverse=True):
        if not left:
            break
        seen = [day for day, _ in _read(access, export.amount, _AMOUNT_COLUMNS)]
        if seen:
            # the end of the range is named inclusively or not: the rows know
            own = left & set(days(min(export.first, *seen), max(seen)))
            if own:
                chosen[export] = own
                left -= own
    if left:
        raise Terminal(
            f"{_source(access)}: no export answers for {listed((f'{day}' for day in left), 5)}: an "
            f"export answers up to its last row. Export these days, or later ones, from the console",
            code="no_export",
        )
    return chosen


def _exports(access: Access) -> Iterator[_Export]:
    """Every pair of files below the source."""
    files: dict[tuple[str, str], dict[str, tuple[ObjectInfo, str]]] = {}
    for info in access.objects(_source(access)).list(""):
        for name in _names(access, info):
            found = _NAME.search(name)
            if found is not None:
                # a zip is a folder of its own; files beside each other are a pair by their range
                place = info.key if info.key.endswith(".zip") else info.key.rpartition("/")[0]
                rest = name.rpartition("/")[2].partition("-")[2]
                files.setdefault((place, rest), {})[found["kind"]] = (info, name)
    for (place, rest), pair in files.items():
        if pair.keys() != {"amount", "cost"}:
            raise Terminal(
                f"{place}: has {next(iter(pair))}-{rest}, but not the other file of the export",
                code="export_incomplete",
            )
        first, last = _range(pair["amount"][1])
        yield _Export(first=first, last=last, amount=pair["amount"], cost=pair["cost"])


def _names(access: Access, info: ObjectInfo) -> list[str]:
    if not info.key.endswith(".zip"):
        return [info.key]
    with access.objects(_source(access)).fetch(info.key) as path, _zip(info.key, path) as archive:
        return archive.namelist()


@contextmanager
def _zip(key: str, path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError) as exc:
        raise Terminal(f"{key}: is no whole zip file: {exc}", code="unreadable_file") from exc


def _range(name: str) -> tuple[date, date]:
    found = _NAME.search(name)
    try:
        if found is None:
            raise ValueError(name)
        parts = [int(part) for part in found["first"].split("-")]
        year, month = parts[:2]
        first = date(year, month, parts[2] if len(parts) == 3 else 1)
        if found["last"]:
            last = date(*(int(part) for part in found["last"].split("-")))
        else:
            last = date(year, month, monthrange(year, month)[1])
    except ValueError as exc:
        raise Terminal(f"{name}: names no days", code="unreadable_file") from exc
    return first, last


# -- rows of a CSV file


def _read(
    access: Access, file: tuple[ObjectInfo, str], columns: Sequence[str]
) -> Iterator[tuple[date, dict[str, str]]]:
    """The day of each row with these columns of it, and no other: one is a secret."""
    info, name = file
    with ExitStack() as stack:
        path = stack.enter_context(access.objects(_source(access)).fetch(info.key))
        raw: IO[bytes]
        if info.key.endswith(".zip"):
            raw = stack.enter_context(stack.enter_context(_zip(info.key, path)).open(name))
        else:
            raw = stack.enter_context(path.open("rb"))
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        try:
            rows = csv.reader(text, strict=True)
            header = next(rows, [])
            day_column = next((one for one in _DAY_COLUMNS if one in header), None)
            missing = [column for column in columns if column not in header]
            if day_column is None or missing:
                raise Terminal(
                    f"{name}: has no column {listed(missing or _DAY_COLUMNS)}: not an export of usage",
                    code="missing_column",
                )
            places = {column: header.index(column) for column in columns}
            day_place = header.index(day_column)
            for row in rows:
                if len(row) != len(header):
                    raise Terminal(
                        f"{name}:{rows.line_num}: has {len(row)} cells, the header {len(header)}",
                        code="unreadable_file",
                    )
                yield (
                    _day(name, row[day_place]),
                    {column: row[place] for column, place in places.items()},
                )
        except (csv.Error, UnicodeDecodeError, zipfile.BadZipFile, EOFError) as exc:
            raise Terminal(f"{name}: cannot be read: {exc}", code="unreadable_file") from exc


def _day(name: str, cell: str) -> date:
    try:
        return datetime.fromisoformat(cell).date()
    except ValueError as exc:
        raise Terminal(f"{name}: {clipped(cell)} is no day", code="unreadable_file") from exc
