"""`GcpApiExtractor`: a paginated list of a Google Cloud REST API, as it is now, into a table.

The unit is the whole list: its rows replace those of the run's last day, when the last page has been
read and not before. Who may see nothing is given an empty list, and no refusal: so an empty list is a
failure, unless the pipeline says that there may be nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import IO, Annotated

import msgspec
from msgspec import Meta

from shared.core.lineage import Evidence, Finding, LoadReceipt
from shared.core.record import Json, Record
from shared.core.run import Summary
from shared.errors import StepError, Terminal
from shared.step import StepContext, StepResult, processor
from shared.warehouse import Batches, Column, ColumnType, NullRule, Table

UNKNOWN = "x_unknown"
MAX_UNKNOWN_NAMES = 20

_BATCH_ROWS = 1_000
_DIGEST_BYTES = 16
_DENIED = frozenset({"forbidden", "unauthorized"})
_ENCODER = msgspec.json.Encoder(decimal_format="number", order="sorted")

ColumnName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Dotted = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]


class ColumnSource(Record, frozen=True, kw_only=True):
    """Where a column's value stands in an entry of the list, and its type."""

    path: Annotated[Dotted, Meta(description="Names that lead to it: `parent.id`.")]
    type: Annotated[ColumnType, Meta(description="A list or an object needs `json`.")] = (
        ColumnType.TEXT
    )


class GcpApiExtractorConfig(Record, frozen=True, kw_only=True):
    """The list to read, and the table that keeps it."""

    base_url: Annotated[
        str,
        Meta(description="Name of the API's address in the registry of providers: `billing`."),
    ]
    path: Annotated[
        str,
        Meta(
            pattern=r"^/[A-Za-z0-9._~:/@-]+$",
            description="Path of the list below the base_url.",
            examples=["/v1/billingAccounts"],
        ),
    ]
    params: Annotated[
        dict[str, str],
        Meta(description="Parameters of every request, such as the size of a page."),
    ] = {}
    scope: Annotated[
        str,
        Meta(
            pattern="^https://www.googleapis.com/auth/[a-z.-]+$",
            description="What the service account's token is good for.",
        ),
    ] = "https://www.googleapis.com/auth/cloud-platform.read-only"
    data_path: Annotated[Dotted, Meta(description="Where in an answer the list stands.")]
    page_param: Annotated[
        str, Meta(description="The parameter that asks for the next page.", min_length=1)
    ] = "pageToken"
    next_page_path: Annotated[
        Dotted, Meta(description="Where in an answer the token of the next page stands.")
    ] = "nextPageToken"
    table: Annotated[
        str,
        Meta(
            pattern="^[a-z][a-z0-9_]{0,127}$",
            description="Table of the organization's dataset that keeps the entries.",
        ),
    ]
    columns: Annotated[
        dict[ColumnName, ColumnSource],
        Meta(
            min_length=1,
            description="Columns of the table. Fields that none of them takes are kept in the JSON "
            "column x_unknown and reported.",
        ),
    ]
    key: Annotated[
        tuple[ColumnName, ...],
        Meta(
            min_length=1,
            description="The columns that tell entries apart. An entry that comes twice is taken once.",
        ),
    ]
    allow_empty: Annotated[
        bool,
        Meta(
            description="Accept that there is no entry. An account that lacks a right may be given an "
            "empty list instead of a refusal."
        ),
    ] = False
    right: Annotated[
        str,
        Meta(description="The role that the account needs, to name when it is refused."),
    ] = ""

    def __post_init__(self) -> None:
        strangers = [name for name in self.key if name not in self.columns]
        if strangers:
            raise ValueError(f"key: {', '.join(strangers)} is not one of the columns")
        if UNKNOWN in self.columns:
            raise ValueError(f"columns: {UNKNOWN} is made by the extractor")
        if self.page_param in self.params:
            raise ValueError(f"params: {self.page_param} is given by the extractor")


@processor("GcpApiExtractor")
def gcp_api_extractor(step: StepContext, config: GcpApiExtractorConfig) -> StepResult:
    """Loads every page of a list of a Google Cloud API, as one slice of the run's last day."""
    version = step.credential().info.version
    began = step.now()
    with tempfile.TemporaryFile(prefix="list-") as file:
        found = _Listing(config, file)
        _read(step, config, found)
        if not found.rows and not config.allow_empty:
            raise Terminal(
                f"{config.data_path}: the list is empty, as it is for an account that may see nothing; "
                f"{_grant(step, config)}, or set allow_empty if there is nothing to see",
                code="empty_list",
            )
        receipt = step.load(
            _table(config),
            Batches(batches=found.batches()),
            covers=frozenset({step.slice(step.end_date)}),
            source_version=found.version,
            source_at=began,
            unknown_column=UNKNOWN,
            findings=found.findings(),
        )
    source = (
        f"{step.registry.base_url(config.base_url)}{config.path}: {found.pages} pages, to the end"
    )
    evidence = Evidence(
        credential_id=step.credential_id,
        credential_version=str(version),
        objects=(source,),
        loads=(receipt,),
    )
    return StepResult(summary=_summary(config, found, receipt), evidence=evidence)


def _read(step: StepContext, config: GcpApiExtractorConfig, found: _Listing) -> None:
    """Reads page after page. Raises Terminal for a page that leads back, or has no list."""
    url = step.registry.base_url(config.base_url) + config.path
    seen: set[bytes] = set()
    params = dict(config.params)
    while True:
        headers = {"authorization": f"Bearer {step.token(config.scope)}"}
        try:
            answer = step.http.get(url, params=params, headers=headers)
        except Terminal as error:
            if error.code in _DENIED:
                raise Terminal(f"{error}; {_grant(step, config)}", code=error.code) from error
            raise
        page = answer.json()
        found.add(_entries(page, config, answer.where))
        token = _at(page, config.next_page_path)
        if not token:
            return
        if not isinstance(token, str) or (mark := _digest(token)) in seen:
            raise Terminal(
                f"{answer.where}: page {found.pages} names a next page that was read already",
                code="repeating_page",
            )
        seen.add(mark)
        params[config.page_param] = token


def _entries(page: Json, config: GcpApiExtractorConfig, where: str) -> list[Json]:
    """The list of a page. Where it is empty, Google leaves it out, and may send nothing but a token."""
    entries = _at(page, config.data_path)
    if entries is None and isinstance(page, dict):
        others = sorted(name for name, value in page.items() if isinstance(value, list))
        if not others:
            return []
        raise _no_list(where, config, f"but {', '.join(others)}; mend data_path")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _no_list(where, config, "of objects")
    return entries


def _no_list(where: str, config: GcpApiExtractorConfig, said: str) -> StepError:
    return Terminal(
        f"{where}: the answer has no list {config.data_path!r} {said}", code="unexpected_answer"
    )


@dataclass
class _Listing:
    """The entries read so far: in a file, as rows of texts. In memory are only the keys' digests."""

    config: GcpApiExtractorConfig
    file: IO[bytes]
    pages: int = 0
    rows: int = 0
    repeated: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    _keys: set[bytes] = field(default_factory=set)
    _content: blake2b = field(default_factory=lambda: blake2b(digest_size=_DIGEST_BYTES))

    def add(self, entries: Sequence[Mapping[str, Json]]) -> None:
        """Takes a page; an entry that came already (a list may shift while it is read) is counted."""
        self.pages += 1
        for entry in entries:
            row = self._row(entry)
            mark = _digest(repr([row[name] for name in self.config.key]))
            if mark in self._keys:
                self.repeated += 1
                continue
            self._keys.add(mark)
            line = _ENCODER.encode(row) + b"\n"
            self._content.update(line)
            self.file.write(line)
            self.rows += 1

    def _row(self, entry: Mapping[str, Json]) -> dict[str, str | None]:
        columns = self.config.columns
        row: dict[str, str | None] = {}
        reasons = []
        for name, source in columns.items():
            value = _at(entry, source.path)
            if isinstance(value, dict | list) and source.type is not ColumnType.JSON:
                reasons.append(f"{name}: {source.path} is no single value")
                value = None
            row[name] = _text(value, source.type)
        known = {source.path.partition(".")[0] for source in columns.values()}
        rest = {name: value for name, value in entry.items() if name not in known}
        for name in rest:
            self.unknown[name] = self.unknown.get(name, 0) + 1
        row["_unknown"] = _ENCODER.encode(rest).decode() if rest else None
        row["_reject"] = "; ".join(reasons) or None
        return row

    @property
    def version(self) -> str:
        """The same for the same entries in the same order."""
        return self._content.hexdigest()

    def batches(self) -> Iterator[list[dict[str, str | None]]]:
        """The rows, from the first one on."""
        self.file.seek(0)
        batch: list[dict[str, str | None]] = []
        for line in self.file:
            batch.append(msgspec.json.decode(line))
            if len(batch) >= _BATCH_ROWS:
                yield batch
                batch = []
        if batch:
            yield batch

    def findings(self) -> tuple[Finding, ...]:
        found = []
        if self.unknown:
            names = ", ".join(sorted(self.unknown)[:MAX_UNKNOWN_NAMES])
            message = f"fields without a column are kept in {UNKNOWN}: {names}"
            found.append(
                Finding(code="unknown_columns", message=message, rows=max(self.unknown.values()))
            )
        if self.repeated:
            message = "entries came on two pages and were taken once"
            found.append(Finding(code="repeated_entries", message=message, rows=self.repeated))
        return tuple(found)


def _at(value: Json, path: str) -> Json:
    """What stands at a dotted path; None where nothing does."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: Json, kind: ColumnType) -> str | None:
    """A value as the text that the casts read, in the digits of the answer."""
    match value:
        case None:
            return None
        case _ if kind is ColumnType.JSON:
            return _ENCODER.encode(value).decode()
        case bool():
            return "true" if value else "false"
    return str(value)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


def _table(config: GcpApiExtractorConfig) -> Table:
    columns = tuple(
        Column(name, source.type, NullRule.REJECT if name in config.key else NullRule.ALLOWED)
        for name, source in config.columns.items()
    )
    return Table(config.table, columns)


def _grant(step: StepContext, config: GcpApiExtractorConfig) -> str:
    account = step.credential().info.metadata.get("client_email", "the service account")
    return f"give {account} {config.right or 'the right to list them'}"


def _summary(config: GcpApiExtractorConfig, found: _Listing, receipt: LoadReceipt) -> Summary:
    return Summary(
        extracted=receipt.extracted,
        loaded=receipt.loaded,
        rejected=receipt.rejected,
        no_data=receipt.extracted == 0,
        warnings=len(receipt.findings) + (1 if receipt.rejected else 0),
        message=f"{receipt.loaded:,} {config.data_path} from {found.pages} "
        f"page{'' if found.pages == 1 else 's'}",
    )
