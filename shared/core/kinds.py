"""What a msgspec type accepts, and how to say it to a person."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from msgspec import inspect as nodes

LISTS = (
    nodes.ListType,
    nodes.VarTupleType,
    nodes.SetType,
    nodes.FrozenSetType,
    nodes.CollectionType,
)
# Written as texts: the Python type and an example.
WRITTEN: dict[type[nodes.Type], tuple[type, str]] = {
    nodes.DateType: (date, "a day like 2026-01-31"),
    nodes.DateTimeType: (datetime, "a time like 2026-01-31T06:00:00Z"),
    nodes.TimeType: (time, "a time of day like 06:00:00"),
    nodes.TimeDeltaType: (timedelta, "a duration like PT30M"),
    nodes.DecimalType: (Decimal, "a number"),
    nodes.UUIDType: (UUID, "a UUID"),
}


def bare(node: nodes.Type) -> nodes.Type:
    """The node without what is only said about it."""
    while isinstance(node, nodes.Metadata):
        node = node.type
    return node


def allowed(node: nodes.EnumType | nodes.LiteralType) -> list[object]:
    """The values that there are to choose from."""
    if isinstance(node, nodes.EnumType):
        return [member.value for member in node.cls]
    return list(node.values)


def fits(node: nodes.Type, value: object) -> bool:
    """Is the value of the right kind, whatever is inside it? Kinds unknown here fit: msgspec sees."""
    match bare(node):
        case nodes.NoneType():
            return value is None
        case nodes.BoolType():
            return isinstance(value, bool)
        case nodes.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case nodes.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case nodes.DecimalType():
            return isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
        case nodes.StrType():
            return isinstance(value, str)
        case nodes.EnumType() | nodes.LiteralType() as choice:
            return any(
                type(value) is type(one) or _both_texts(value, one) for one in allowed(choice)
            )
        case nodes.StructType() | nodes.DictType():
            return isinstance(value, dict)
        case plain if isinstance(plain, LISTS):
            return isinstance(value, list | tuple)
        case nodes.UnionType(types=options):
            return any(fits(option, value) for option in options)
        case plain if type(plain) in WRITTEN:
            return isinstance(value, str | WRITTEN[type(plain)][0])
    return True


def _both_texts(one: object, other: object) -> bool:
    return isinstance(one, str) and isinstance(other, str)


def takes_text(node: nodes.Type) -> bool:
    """Could a text stand here, whatever it says?"""
    match bare(node):
        case nodes.UnionType(types=options):
            return any(takes_text(option) for option in options)
        case nodes.StrType() | nodes.AnyType() | nodes.EnumType() | nodes.LiteralType():
            return True
        case plain:
            return type(plain) in WRITTEN


def name_of(node: nodes.Type) -> str:
    """The kind of value that a fault asks for."""
    match bare(node):
        case nodes.UnionType(types=options):
            names = [name_of(one) for one in options if not isinstance(bare(one), nodes.NoneType)]
            return " or ".join(dict.fromkeys(names))
        case nodes.NoneType():
            return "empty"
        case nodes.BoolType():
            return "true or false"
        case nodes.IntType():
            return "a whole number"
        case nodes.FloatType():
            return "a number"
        case nodes.StructType() | nodes.DictType():
            return "a mapping"
        case nodes.EnumType() | nodes.LiteralType() as choice:
            return f"one of {', '.join(map(str, allowed(choice)))}"
        case nodes.StrType():
            return "a text"
        case plain if isinstance(plain, LISTS):
            return "a list"
        case plain:
            return WRITTEN[type(plain)][1] if type(plain) in WRITTEN else "something else"


def kind_of(value: object) -> str:
    """The kind of a value that was found."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "a text"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return "that"
