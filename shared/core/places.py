"""Where a value stands inside its document, and how a fault names that place."""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

from shared.core.nearmiss import clipped
from shared.errors import Fault

# The keys and indices that lead to a value from the top of its document.
Path: TypeAlias = tuple[str | int, ...]

MAX_FAULTS = 100  # of one document; more are no help


class Unread:
    """Stands for a value that has a fault already, so that nobody reports a second one."""

    def __repr__(self) -> str:
        return "UNREAD"


UNREAD: Final = Unread()


class Places(Protocol):
    """Knows the places of one document."""

    @property
    def echo(self) -> bool:
        """May a fault repeat a text of the document? Not of a request: it may be a secret."""

    def at(self, path: Path, *, key: bool = False) -> str:
        """The place of the value at `path`, or of its key; of what encloses it when it is missing."""

    def label(self, path: Path) -> str:
        """What the value is called in a message; empty when the place says it already."""


class JsonPlaces:
    """Places of a request body: the path itself, `steps[2].config.days`."""

    echo = False

    def at(self, path: Path, *, key: bool = False) -> str:
        del key  # the same for both
        return dotted(path)

    def label(self, path: Path) -> str:
        del path
        return ""


JSON = JsonPlaces()


def fault(places: Places, path: Path, message: str, *, key: bool = False) -> Fault:
    """The fault `message` (a predicate: "must be a list") of the value at `path`."""
    label = places.label(path)
    return Fault(places.at(path, key=key), f"{label} {message}" if label else message)


def dotted(path: Path) -> str:
    """`steps[2].config.days`; a key that is no plain word is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if part.replace("-", "_").isidentifier() and len(part) <= 60 else None
            text += ("." if text else "") + (word or clipped(part))
    return text
