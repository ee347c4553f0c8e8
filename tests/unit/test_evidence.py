"""Evidence is stored with an attempt, which has room for so much."""

from __future__ import annotations

import msgspec

from shared.core.lineage import Evidence
from shared.engine.work import LISTED_OBJECTS, MAX_EVIDENCE_BYTES, _encoded


def test_evidence_is_stored_as_it_is() -> None:
    evidence = Evidence(objects=("a", "b"))
    assert msgspec.json.decode(_encoded(evidence), type=Evidence) == evidence


def test_of_very_many_objects_the_first_are_listed_and_that_is_told() -> None:
    names = tuple(f"costs/data/BILLING_PERIOD=2026-01/{number:060}" for number in range(20_000))
    raw = _encoded(Evidence(objects=names))
    assert len(raw) <= MAX_EVIDENCE_BYTES
    stored = msgspec.json.decode(raw, type=Evidence)
    assert stored.objects == names[:LISTED_OBJECTS]
    assert [finding.code for finding in stored.findings] == ["objects_listed_in_part"]
    assert "20000 objects" in stored.findings[0].message
