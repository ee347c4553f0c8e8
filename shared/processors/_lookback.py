"""How far back a step reads again what its source may still change."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

LookbackDays = Annotated[
    int,
    Meta(
        ge=0,
        le=90,
        description="Days before the run's first one that are done again, because their source may "
        "still have changed.",
    ),
]
