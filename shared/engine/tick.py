"""What the clock brings about: starts and hints for what is due, and an orderly quota.

Never runs a step and never changes a run: it puts work back at the door, and is safe at any time, any
number of times, at once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from shared.app import App
from shared.bus import Outgoing
from shared.core.message import CompletionMessage, Topic, attributes_of, encode
from shared.core.plan import NO_PLAN
from shared.engine.schedules import fire_due
from shared.engine.submit import tombstone

_PAGE = 500
_PAGES = 20
_KEEP_RESERVATIONS = timedelta(days=400)  # as long as the runs they belong to


class Ticked(NamedTuple):
    """What one tick did."""

    starts: int
    hints: int
    expired: int
    orphans: int
    purged: int


def tick(app: App) -> Ticked:
    """One tick. Raises Unavailable; the next tick does what this one could not."""
    return Ticked(
        starts=fire_due(app),
        hints=_hint_due_runs(app),
        expired=app.accounts.sweep(app.now()),
        orphans=_settle_orphans(app),
        # One batch: a tick stays short, and the next ones come.
        purged=app.accounts.purge(app.now() - _KEEP_RESERVATIONS),
    )


def _hint_due_runs(app: App) -> int:
    hinted: set[str] = set()
    for _ in range(_PAGES):
        due = [run_id for run_id in app.runs.due(app.now(), _PAGE) if run_id not in hinted]
        if not due:
            break
        hinted.update(due)
        app.bus.publish(
            [
                Outgoing(
                    Topic.COMPLETIONS,
                    encode(CompletionMessage(run_id=run_id)),
                    None,
                    attributes_of(run_id),
                )
                for run_id in due
            ]
        )
        if len(due) < _PAGE:
            break
    return len(hinted)


def _settle_orphans(app: App) -> int:
    """Reservations whose run was never created: fixes that it never will be, then gives back."""
    now = app.now()
    released = 0
    for orphan in app.accounts.orphans(now - app.timing.orphan_age):
        grave = tombstone(orphan.run_id, orphan.org, app.environment, now)
        if app.runs.create_run(grave, NO_PLAN, app.new_id()):
            app.accounts.release(orphan.run_id)
            released += 1
            continue
        there = app.runs.run(orphan.run_id)
        if there is not None and there.run.tombstone:
            app.accounts.release(orphan.run_id)
            released += 1
        else:
            app.accounts.confirm(orphan.run_id)
    return released
