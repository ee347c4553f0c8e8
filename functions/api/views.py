"""What the API answers where it is more than a view of the engine: lists, links, and what is said once."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from shared.accounts import ApiKey, AuditEntry, Limits, Organization
from shared.core.record import Json
from shared.engine.describe import PipelineDetail
from shared.engine.query import AttemptView, EvidenceView, StatusView, TransitionView, View
from shared.engine.schedules import ScheduleView, SkippedView
from shared.vault import CredentialInfo


class HealthView(View, frozen=True, kw_only=True):
    """The process answers."""

    status: Literal["ok"] = "ok"
    version: str


class ReadyView(View, frozen=True, kw_only=True):
    """The stores answer, and so many pipelines can be run."""

    status: Literal["ready"] = "ready"
    pipelines: int


class SchedulesView(View, frozen=True, kw_only=True):
    """The schedules of an organization."""

    schedules: tuple[ScheduleView, ...]


class SkippedPageView(View, frozen=True, kw_only=True):
    """A page of due times that were not started; `next` is `before` of the next page, null at the end."""

    skipped: tuple[SkippedView, ...]
    next: datetime | None


class Links(View, frozen=True, kw_only=True):
    """Where to go on with a run."""

    status: str
    logs: str
    evidence: str
    cancel: str
    retry: str


class AcceptedView(View, frozen=True, kw_only=True):
    """A run that is stored and will be brought to an end."""

    run_id: str
    status: Literal["accepted"] = "accepted"
    links: Links


class LinkedStatusView(StatusView, frozen=True, kw_only=True):
    """A run as it stands, and where to go on with it."""

    links: Links


class AttemptsView(View, frozen=True, kw_only=True):
    """Every attempt, in the order of their start."""

    attempts: tuple[AttemptView, ...]


class TransitionsView(View, frozen=True, kw_only=True):
    """Every move, in order."""

    transitions: tuple[TransitionView, ...]


class EvidencesView(View, frozen=True, kw_only=True):
    """What every attempt proved."""

    evidence: tuple[EvidenceView, ...]


class ReservationView(View, frozen=True, kw_only=True):
    """A run that holds a slot, until it ends, or at the latest `expires_at`."""

    run_id: str
    created_at: datetime
    expires_at: datetime


class QuotaView(View, frozen=True, kw_only=True):
    """What an organization has used, and the oldest 100 of the runs that hold its slots.

    Days and months begin at midnight UTC; a slot is free again when its run ends.
    """

    limits: Limits
    concurrent: int
    today: int
    month: int
    succeeded: int
    failed: int
    daily_resets_at: datetime
    monthly_resets_at: datetime
    reservations: tuple[ReservationView, ...]


class PipelineView(View, frozen=True, kw_only=True):
    """A pipeline that can be run, at its address."""

    address: str
    pipeline_id: str
    name: str
    description: str
    provider: str
    domain: str
    steps: tuple[str, ...]


class CatalogView(View, frozen=True, kw_only=True):
    """Every pipeline, by address."""

    pipelines: tuple[PipelineView, ...]


class OnePipelineView(PipelineDetail, frozen=True, kw_only=True):
    """A whole pipeline, with the JSON Schema of the body that starts a run of it."""

    run_schema: dict[str, Json]


class OrganizationsView(View, frozen=True, kw_only=True):
    """Every organization."""

    organizations: tuple[Organization, ...]


class KeysView(View, frozen=True, kw_only=True):
    """The keys of an organization, without their text."""

    keys: tuple[ApiKey, ...]


class MadeKeyView(View, frozen=True, kw_only=True):
    """A new key. `api_key` is its text: it is shown this once, and stored only as a hash."""

    key: ApiKey
    api_key: str


class AuditView(View, frozen=True, kw_only=True):
    """Changes, the newest first. `next` is the cursor of the next page, null at the end."""

    entries: tuple[AuditEntry, ...]
    next: str | None


class CredentialsView(View, frozen=True, kw_only=True):
    """Active credentials, without their secrets."""

    credentials: tuple[CredentialInfo, ...]


class RewrappedView(View, frozen=True, kw_only=True):
    """How many data keys were wrapped anew."""

    rewrapped: int
