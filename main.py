"""The entry point of every function: functions-framework resolves FUNCTION_TARGET here.

A function is imported when it is asked for, so that a service pays for its own imports only.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

FUNCTIONS = ("api", "step_worker", "coordinator", "dead_letter", "event_trigger", "scheduler")


def __getattr__(name: str) -> Any:
    if name not in FUNCTIONS:
        raise AttributeError(f"no function {name!r} (known: {', '.join(FUNCTIONS)})")
    return getattr(import_module(f"functions.{name}"), name)
