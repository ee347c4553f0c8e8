"""A file of subscriptions, CSV or YAML: its versions as the API takes them, and where each of them stands."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from shared.cli.stop import Code, Stop
from shared.core import typed
from shared.core.places import UNREAD, Path, Places
from shared.core.subscription import Entries, Entry
from shared.core.yaml import read as read_yaml
from shared.errors import Fault

VERSIONS = "versions"
_PLACE = re.compile(rf"{VERSIONS}\[([0-9]+)\](?:\.(\w+))?")


class Read(NamedTuple):
    """The body of the request, and the places of what is in it."""

    body: dict[str, Any]
    places: Places


def read(file: FilePath) -> Read:
    """Raises Stop with every fault of the file that can be told without the API."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise Stop(Code.BAD_INPUT, f"{file}: cannot be read: {error.strerror}") from error
    match file.suffix.lower():
        case ".csv":
            found, faults = _read_csv(str(file), raw)
        case ".yml" | ".yaml":
            found, faults = _read_yaml(str(file), raw)
        case _:
            raise Stop(Code.BAD_INPUT, f"{file}: is neither .csv nor .yml")
    if not faults:
        faults = typed.check(found.body, Entries, found.places)
    if faults:
        raise faulty(faults)
    return found


def faulty(faults: Sequence[Fault]) -> Stop:
    """What ends the command for them."""
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    return Stop(Code.BAD_INPUT, f"nothing was entered: the file has {count}", faults=faults)


def placed(faults: Sequence[Fault], places: Places) -> list[Fault]:
    """Faults that the API found in the body, by their places in the file."""
    return [_placed(fault, places) for fault in faults]


def _placed(fault: Fault, places: Places) -> Fault:
    found = _PLACE.fullmatch(fault.where)
    if found is None:
        return fault
    path: Path = (VERSIONS, int(found[1]), *filter(None, [found[2]]))
    label = places.label(path)
    return Fault(places.at(path), f"{label} {fault.message}" if label else fault.message)


class _YamlPlaces:
    """Of a YAML file: line, column, and the name of the field."""

    echo = True

    def __init__(self, at: Any) -> None:
        self.at = at

    def label(self, path: Path) -> str:
        return str(path[-1]) if path and isinstance(path[-1], str) else "version"


class _CsvPlaces:
    """Of a CSV file: the line on which the row begins, and the name of the column."""

    echo = True

    def __init__(self, file: str, lines: Sequence[int]) -> None:
        self._file = file
        self._lines = lines

    def at(self, path: Path, *, key: bool = False) -> str:
        """An unknown column is one of the header."""
        line = 1 if key or len(path) < 2 else self._lines[int(path[1])]
        return f"{self._file}:{line}"

    def label(self, path: Path) -> str:
        return str(path[-1]) if path and isinstance(path[-1], str) else "row"


def _read_yaml(file: str, raw: bytes) -> tuple[Read, list[Fault]]:
    source = read_yaml(file, raw)
    body = source.value if source.value is not UNREAD else {}
    return Read(body, _YamlPlaces(source.at)), source.faults


def _read_csv(file: str, raw: bytes) -> tuple[Read, list[Fault]]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Stop(Code.BAD_INPUT, f"{file}: is not UTF-8") from None
    rows: list[dict[str, object]] = []
    lines: list[int] = []
    faults: list[Fault] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) > len(header):
                said = f"has {len(cells)} cells, the header {len(header)}"
                faults.append(Fault(f"{file}:{line}", said))
            elif any(cells):
                # An empty cell says nothing; a row may end early.
                given = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
                rows.append(typed.plain(given, Entry))
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        faults.append(Fault(f"{file}:{reader.line_num}", f"is no CSV: {error}"))
    return Read({VERSIONS: rows}, _CsvPlaces(file, lines)), faults
