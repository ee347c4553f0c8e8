"""The two kinds of typed values: what people write (strict), and what we store (tolerant).

Both are msgspec structs: one description of the fields yields the parser's types, the JSON Schema and
the OpenAPI parts. `docs/adr/0002-msgspec-for-typed-values.md` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from msgspec import Struct

from shared.core.places import Path

# None, a boolean, a number, a text, a list or an object of these: what JSON can say.
Json: TypeAlias = Any


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something a person or another system writes: an unknown key is a fault."""

    @classmethod
    def contradictions(cls, given: Mapping[str, Json]) -> Iterable[tuple[Path, str]]:
        """What is wrong with fields that each have their form: where, and why.

        `given` has the plain values of those that were given and have no fault of their own.
        """
        del given
        return ()


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something we store or send: a newer release may have added fields to it."""
