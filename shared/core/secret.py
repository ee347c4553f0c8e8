"""A value that cannot be printed, logged, serialized, compared by accident or put into a template."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Holds bytes. The only way to the value is `reveal()`, which is easy to search for."""

    __slots__ = ("__value",)

    def __init__(self, value: bytes | str) -> None:
        self.__value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """The value itself. Keep it in a local variable of the call that needs it."""
        return self.__value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.__value, other.__value)

    __hash__ = None  # type: ignore[assignment]  # a secret is no key of a table

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> NoReturn:
        raise TypeError("a secret cannot be formatted into a text")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be serialized")
