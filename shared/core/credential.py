"""What is stored of a credential: read at the door against the types of its provider.

What is sealed is every field of its type. What may be shown of it is its metadata: the fields that are
not secret, beside whatever else a pipeline of the organization names as {credential_KEY}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from shared.core.nearmiss import clipped, did_you_mean, listed
from shared.core.providers import FIELD_PATTERN, CredentialField, CredentialType, Provider
from shared.core.record import Json
from shared.errors import Fault, Invalid

TYPE = "type"  # what its metadata names the type by

_TELLING = 8  # characters; a shorter secret may stand in metadata by chance


class Accepted(NamedTuple):
    """A credential that fits its type: `fields` are sealed, `metadata` is shown."""

    fields: dict[str, str]
    metadata: dict[str, Json]


def accepted(
    provider: Provider, kind: str | None, secret: Mapping[str, Json], metadata: Mapping[str, Json]
) -> Accepted:
    """The credential as a `kind`, or as the type that its fields say it is.

    A field that is not secret may stand in either of the two. Raises Invalid with every fault, none of
    which repeats a value.
    """
    name = _type_of(provider, kind, secret, metadata)
    chosen = provider.credentials[name]
    faults = list(_strangers(name, chosen, secret))
    fields: dict[str, str] = {}
    for key, field in chosen.fields.items():
        place = "secret" if field.secret or key in secret else "metadata"
        value = (secret if place == "secret" else metadata).get(key)
        wrong = _misplaced(key, field, secret, metadata) or _wrong(field, value)
        if wrong:
            faults.append(Fault(f"{place}.{key}", wrong))
        elif value is not None:
            fields[key] = value
    if metadata.get(TYPE, name) != name:
        faults.append(Fault(f"metadata.{TYPE}", f"is {name}, as the type of the credential"))
    faults += _leaks(chosen, fields, metadata)
    if faults:
        raise _refused(provider, faults)
    shown = {key: value for key, value in fields.items() if not chosen.fields[key].secret}
    return Accepted(fields, {**metadata, **shown, TYPE: name})


def _type_of(
    provider: Provider, kind: str | None, secret: Mapping[str, Json], metadata: Mapping[str, Json]
) -> str:
    """The name of the type: the one that was given, else that which most of the fields are of."""
    types = provider.credentials
    if not types:
        raise _refused(provider, [Fault("provider", f"{provider.title} takes no credential")])
    if kind is not None:
        if kind not in types:
            near = did_you_mean(kind, types)
            message = f"{clipped(kind)} is not one of {listed(types)}{near}"
            raise _refused(provider, [Fault("type", message)])
        return kind
    given = secret.keys() | metadata.keys()
    missing = {name: _required(one) - given for name, one in types.items()}
    fitting = [name for name, one in types.items() if secret.keys() <= _known(one)]
    whole = [name for name in fitting if not missing[name]]

    def likely(name: str) -> tuple[int, int]:
        return len(types[name].fields.keys() & given), -len(missing[name])

    ranked = sorted(whole or fitting or types, key=likely, reverse=True)
    best, *others = ranked
    alone = not others or likely(others[0]) < likely(best)
    if len(types) == 1 or (alone and (whole or likely(best)[0])):
        return best
    ways = "; ".join(f"{name}: {', '.join(sorted(_required(types[name])))}" for name in types)
    raise _refused(provider, [Fault("type", f"say which one it is ({ways})")])


def _required(kind: CredentialType) -> set[str]:
    return {name for name, field in kind.fields.items() if field.required}


def _known(kind: CredentialType) -> set[str]:
    return kind.fields.keys() | set(kind.ignored)


def _strangers(name: str, kind: CredentialType, secret: Mapping[str, Json]) -> Iterator[Fault]:
    for key in secret:
        if key in _known(kind):
            continue
        known = f"known: {listed(kind.fields)}"
        if re.search(FIELD_PATTERN, key):
            near = did_you_mean(key, kind.fields)
            yield Fault(f"secret.{key}", f"is no field of {name}{near}; {known}")
        else:  # it may be a secret in the wrong place
            yield Fault("secret", f"has a key that is no field of {name}; {known}")


def _misplaced(
    key: str, field: CredentialField, secret: Mapping[str, Json], metadata: Mapping[str, Json]
) -> str | None:
    if key in metadata and field.secret:
        return "is secret, and metadata is shown: give it in `secret` alone"
    if key in metadata and key in secret and metadata[key] != secret[key]:
        return "is something else in `metadata`"
    return None


def _wrong(field: CredentialField, value: Json) -> str | None:
    """What is wrong with the value, if anything is; None where it may be left out."""
    match value:
        case None:
            return f"is missing: {field.description}" if field.required else None
        case str() if not value:
            return f"is empty: {field.description}"
        case str():
            fits = field.pattern is None or re.fullmatch(field.pattern, value)
            return None if fits else f"must match {field.pattern} ({field.description})"
    return "must be a text"


def _leaks(
    kind: CredentialType, fields: Mapping[str, str], metadata: Mapping[str, Json]
) -> Iterator[Fault]:
    for key, value in metadata.items():
        text = msgspec.json.encode(value).decode()
        for name, secret in fields.items():
            told = msgspec.json.encode(secret).decode()[1:-1]
            if kind.fields[name].secret and len(secret) >= _TELLING and told in text:
                yield Fault(f"metadata.{key}", f"has the {name} in it, and metadata is shown")


def _refused(provider: Provider, faults: list[Fault]) -> Invalid:
    return Invalid(f"this is no credential for {provider.title}", faults)
