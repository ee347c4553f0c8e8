"""Follows a run to its end and shows its steps as they go: alive on a terminal, a line a change else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from shared.cli import show
from shared.cli.client import Answer, Client, Refused, Unreachable
from shared.cli.stop import Code

TERMINAL = frozenset({"completed", "failed", "cancelled"})
PATIENCE_SECONDS = 30.0  # an API that restarts goes on with the run
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 0.5
_MARKS = {
    "completed": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "cancelled": ("✗", "yellow"),
    "skipped": ("–", "yellow"),
    "pending": ("·", "dim"),
    "queued": ("·", "cyan"),
}


def follow(
    client: Client,
    org: str,
    run_id: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Answer:
    """The status of the run when it has ended. Raises Refused, Unreachable."""
    wait = _FIRST_WAIT
    with _Steps(monotonic) as steps:
        while True:
            answer = _patiently(client, org, run_id, sleep, monotonic)
            steps.update(answer.body)
            if answer.body["status"] in TERMINAL:
                return answer
            sleep(wait)
            wait = min(wait * 1.2, _LONGEST_WAIT)


def _patiently(
    client: Client,
    org: str,
    run_id: str,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
) -> Answer:
    """The run's status, also when the API is away for a moment."""
    until = monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return client.get("pipelines", "status", org, run_id)
        except (Unreachable, Refused) as stop:
            if stop.code is not Code.UNREACHABLE or monotonic() >= until:
                stop.hint = f"the run may go on: pipelines status {run_id} --org {org}"
                raise
        sleep(_LONGEST_WAIT)


class _Steps:
    """The steps on the screen."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since: dict[str, float] = {}
        self._seen: dict[str, tuple[str, int]] = {}
        self._spinners: dict[str, Spinner] = {}
        self._steps: list[dict[str, Any]] = []
        console = show.err()
        self._live = (
            Live(
                console=console,
                get_renderable=self._table,
                transient=True,
                refresh_per_second=8,
            )
            if console.is_terminal and not console.is_dumb_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, run: dict[str, Any]) -> None:
        self._steps = run["steps"]
        for step in self._steps:
            key = (step["status"], step["attempt"])
            if self._seen.get(step["step_id"]) == key:
                continue
            self._seen[step["step_id"]] = key
            if step["status"] == "running":
                self._since[step["step_id"]] = self._monotonic()
            if self._live is None and step["status"] != "pending":
                width = max(len(one["step_id"]) for one in self._steps)
                show.err().print(f"  {line(step, width)}")

    def _table(self) -> Table:
        made = Table.grid(padding=(0, 2, 0, 0))
        made.add_column(width=1)
        made.add_column(no_wrap=True)
        made.add_column(no_wrap=True)
        made.add_column(justify="right", no_wrap=True, min_width=7)
        made.add_column(overflow="ellipsis", no_wrap=True)
        for step in self._steps:
            name, status = step["step_id"], step["status"]
            took = step["duration_seconds"]
            if status == "running":
                mark: Text | Spinner = self._spinners.setdefault(
                    name, Spinner("dots", style="cyan")
                )
                took = self._monotonic() - self._since.get(name, self._monotonic())
            else:
                mark = Text(*_MARKS.get(status, ("·", "")))
            time_text = "" if took is None else show.seconds(took)
            made.add_row(mark, name, show.state(status), time_text, remark(step))
        return made


def line(step: dict[str, Any], width: int) -> str:
    """A step in a line of text, where nothing can be redrawn."""
    took = step["duration_seconds"]
    parts = [
        step["step_id"].ljust(width),
        step["status"].ljust(9),
        ("" if took is None else show.seconds(took)).rjust(7),
        remark(step),
    ]
    return "  ".join(parts).rstrip()


def remark(step: dict[str, Any]) -> str:
    """What is worth knowing of a step beside its state."""
    summary, error = step["summary"], step["error"]
    if step["status"] == "completed":
        return said(summary or {})
    if step["status"] == "failed" and error:
        return f"{error['code']}: {error['message']}"
    if step["status"] == "queued" and step["attempt"] > 1:
        text = f"attempt {step['attempt']} of {step['max_attempts']}"
        if step["next_attempt_at"]:
            text += f" at {show.clock(step['next_attempt_at'])} UTC"
        return text + (f" after {error['code']}: {error['message']}" if error else "")
    if step["status"] == "running" and step["attempt"] > 1:
        return f"attempt {step['attempt']} of {step['max_attempts']}"
    return str(step["reason"] or "")


def said(summary: dict[str, Any]) -> str:
    """A step's own words, else its rows."""
    if summary.get("message"):
        return str(summary["message"])
    if summary.get("no_data"):
        return "no data"
    loaded = summary.get("loaded", 0)
    return f"{show.count(loaded)} rows" if loaded else ""
