"""The columns of a Parquet file, read from its footer: what stands there, without a Parquet library.

A processor has to know a file's columns before the warehouse reads it, and the libraries that could
tell it take longer to import than the footer takes to decode. Only the schema and the number of rows
are decoded. Source: the Parquet format (thrift definition) and the Thrift compact protocol.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

MAGIC = b"PAR1"
TAIL = 8
_MAX_FOOTER = 64 * 2**20  # it is read into memory whole
_TIMESTAMP_CONVERTED = frozenset({9, 10})
_TIMESTAMP_LOGICAL = 8
_INT96 = 3
_REPEATED = 2


class Kind(StrEnum):
    """How a column has to be turned into text."""

    PLAIN = "plain"
    TIMESTAMP = "timestamp"
    NESTED = "nested"


class ParquetColumn(NamedTuple):
    """A top-level column."""

    name: str
    kind: Kind


class ParquetSchema(NamedTuple):
    """What a footer says of the file."""

    columns: tuple[ParquetColumn, ...]
    rows: int


def footer_length(tail: bytes) -> int:
    """The length of the footer that ends before the last 8 bytes. ValueError when it is no Parquet."""
    if len(tail) != TAIL or tail[4:] != MAGIC:
        raise ValueError("the file does not end as a Parquet file does: it may be cut off")
    length = int.from_bytes(tail[:4], "little")
    if length > _MAX_FOOTER:
        raise ValueError(f"the footer of the Parquet file would have {length:,} bytes")
    return length


def schema(footer: bytes) -> ParquetSchema:
    """The schema in a footer. Raises ValueError when it cannot be decoded."""
    try:
        fields = _Compact(footer).struct(until=3)
        elements, rows = fields[2], fields[3]
        columns = []
        at = 1  # the first element is the root
        while at < len(elements):
            columns.append(_column(elements[at]))
            at = _after(elements, at)
        return ParquetSchema(tuple(columns), rows)
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError("the footer of the Parquet file cannot be read") from exc


def _column(element: dict[int, Any]) -> ParquetColumn:
    logical = element.get(10) or {}
    if element.get(5) or element.get(3) == _REPEATED:
        kind = Kind.NESTED
    elif (
        element.get(6) in _TIMESTAMP_CONVERTED
        or _TIMESTAMP_LOGICAL in logical
        or element.get(1) == _INT96
    ):
        kind = Kind.TIMESTAMP
    else:
        kind = Kind.PLAIN
    return ParquetColumn(element[4].decode(), kind)


def _after(elements: list[dict[int, Any]], at: int) -> int:
    """The index after the element and all its descendants: the list is the tree, depth first."""
    open_children = 1
    while open_children:
        open_children += elements[at].get(5, 0) - 1
        at += 1
    return at


class _Compact:
    """Thrift's compact protocol: structs as {field id: value}, binaries as bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, until: int | None = None) -> dict[int, Any]:
        # `until` stops after that field: the row groups behind it can be megabytes.
        fields: dict[int, Any] = {}
        field = 0
        while True:
            head = self._byte()
            if head == 0:
                return fields
            delta, kind = head >> 4, head & 0x0F
            field = field + delta if delta else self._zigzag()
            fields[field] = kind == 1 if kind in {1, 2} else self._value(kind)
            if field == until:
                return fields

    def _value(self, kind: int) -> Any:
        match kind:
            case 1 | 2:  # a boolean inside a list has a byte of its own
                return self._byte() == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 7:
                return self._take(8)
            case 8:
                return self._take(self._varint())
            case 9 | 10:
                head = self._byte()
                size, item = head >> 4, head & 0x0F
                if size == 15:
                    size = self._varint()
                return [self._value(item) for _ in range(size)]
            case 11:
                size = self._varint()
                kinds = self._byte() if size else 0
                return [(self._value(kinds >> 4), self._value(kinds & 15)) for _ in range(size)]
            case 12:
                return self.struct()
            case _:
                raise TypeError(f"unknown type {kind}")

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _take(self, size: int) -> bytes:
        value = self._data[self._at : self._at + size]
        if len(value) != size:
            raise IndexError("ends too early")
        self._at += size
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
