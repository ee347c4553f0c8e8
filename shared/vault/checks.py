"""What every vault refuses to store."""

from __future__ import annotations

import re
from datetime import date

import msgspec

from shared.core.lineage import FIRST_DAY, NO_CREDENTIAL, SLUG
from shared.core.record import Json
from shared.core.secret import Secret
from shared.core.typed import check
from shared.errors import Fault, Invalid

MAX_SECRET_BYTES = 65_536
MAX_METADATA_BYTES = 16_384
MIN_TELLING_BYTES = 8  # a shorter secret may stand in metadata by chance

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")


def checked(
    org: str, provider: str, credential_id: str, secret: Secret, metadata: dict[str, Json]
) -> bytes:
    """The metadata as JSON. Raises Invalid with every fault."""
    faults = []
    if not SLUG.fullmatch(org):
        faults.append(Fault("org", f"does not match {SLUG.pattern}"))
    if not _NAME.fullmatch(provider):
        faults.append(Fault("provider", f"does not match {_NAME.pattern}"))
    if not _NAME.fullmatch(credential_id):
        faults.append(Fault("credential_id", f"does not match {_NAME.pattern}"))
    elif credential_id == NO_CREDENTIAL:
        faults.append(Fault("credential_id", f"{NO_CREDENTIAL!r} means that there is none"))
    value = secret.reveal()
    if not 0 < len(value) <= MAX_SECRET_BYTES:
        faults.append(Fault("secret", f"must have 1 to {MAX_SECRET_BYTES} bytes"))
    faults += _first_day_faults(metadata)
    try:
        stored = msgspec.json.encode(metadata)
    except (TypeError, ValueError):
        stored = b""
        faults.append(Fault("metadata", "is not what JSON can say"))
    if len(stored) > MAX_METADATA_BYTES:
        faults.append(Fault("metadata", f"must have at most {MAX_METADATA_BYTES} bytes as JSON"))
    if len(value) >= MIN_TELLING_BYTES and _said_in(value, stored):
        faults.append(Fault("metadata", "has the secret in it, and metadata is shown to people"))
    if faults:
        raise Invalid("the credential is not valid", faults)
    return stored


def _first_day_faults(metadata: dict[str, Json]) -> list[Fault]:
    """What a pipeline's coverage counts from must be a day, or the gaps before it look like ours."""
    value = metadata.get(FIRST_DAY)
    return [] if value is None else check(value, date, path=("metadata", FIRST_DAY))


def _said_in(secret: bytes, stored: bytes) -> bool:
    # a key file of several lines stands escaped in JSON
    escaped = msgspec.json.encode(secret.decode(errors="replace"))[1:-1]
    return secret in stored or escaped in stored
