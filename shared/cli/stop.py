"""How a command ends before its time: what to tell the person, and the exit code that says whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from shared.errors import ConfigError, Fault, Unavailable


class Code(IntEnum):
    """The exit codes. `pipelines run --help` documents them."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    QUOTA = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


class Stop(Exception):
    """Ends the command. `faults` are listed one a line, `hint` says what to do, `note` is for a report."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        faults: Sequence[Fault] = (),
        hint: str = "",
        note: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.faults = tuple(faults)
        self.hint = hint
        self.note = note


def of_config(error: ConfigError) -> Stop:
    """Settings or configuration files that are wrong."""
    count = len(error.faults)
    return Stop(
        Code.BAD_INPUT,
        "there is a fault in the configuration"
        if count == 1
        else f"there are {count} faults in the configuration",
        faults=error.faults,
    )


def of_unavailable(error: Unavailable) -> Stop:
    """A store of this machine that cannot be opened."""
    return Stop(Code.UNREACHABLE, str(error))
