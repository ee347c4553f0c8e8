"""Usage and cost of generative AI in one form for every provider.

Usage stands in long form, one row per meter, so that no provider's kind of token needs a column that the
others leave empty. The meters of one request are disjoint: their sum is what was used, and nothing is in
two of them. A provider whose totals include a part (OpenAI's input includes the cached input) is taken
apart where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct

from shared.core.focus import CostBasis

USAGE_TABLE = "genai_usage"
COSTS_TABLE = "genai_costs"
_SCALE = Decimal(1).scaleb(-18)


class Unit(StrEnum):
    """What a meter counts: a plural as FOCUS' UnitFormat wants it."""

    TOKENS = "Tokens"
    REQUESTS = "Requests"
    SEARCHES = "Searches"
    SESSIONS = "Sessions"
    IMAGES = "Images"
    CHARACTERS = "Characters"
    SECONDS = "Seconds"
    MINUTES = "Minutes"
    HOURS = "Hours"
    BYTES = "Bytes"
    GIBIBYTE_HOURS = "GiB-Hours"


class Pricing(NamedTuple):
    """How prices of a unit are told: `quantity / size` is counted in `unit`."""

    size: int
    unit: str


PRICED_PER: Mapping[Unit, Pricing] = MappingProxyType(
    {
        Unit.TOKENS: Pricing(1_000_000, "1000000 Tokens"),
        Unit.SEARCHES: Pricing(1_000, "1000 Searches"),
        Unit.REQUESTS: Pricing(1_000, "1000 Requests"),
        Unit.CHARACTERS: Pricing(1_000_000, "1000000 Characters"),
    }
)


def priced_per(unit: Unit) -> Pricing:
    """How prices of the unit are told; one by one, where nobody tells them otherwise."""
    return PRICED_PER.get(unit, Pricing(1, unit.value))


class Meter(StrEnum):
    """What was counted. Input that came from a cache, or went into one, is not in `input` too."""

    INPUT = "input"
    INPUT_AUDIO = "input_audio"
    INPUT_IMAGE = "input_image"
    INPUT_OTHER = "input_other"
    CACHED_INPUT = "cached_input"
    CACHED_INPUT_AUDIO = "cached_input_audio"
    CACHED_INPUT_IMAGE = "cached_input_image"
    CACHED_INPUT_OTHER = "cached_input_other"
    CACHE_WRITE = "cache_write"
    CACHE_WRITE_5M = "cache_write_5m"
    CACHE_WRITE_1H = "cache_write_1h"
    OUTPUT = "output"
    OUTPUT_AUDIO = "output_audio"
    OUTPUT_IMAGE = "output_image"
    OUTPUT_OTHER = "output_other"
    REQUESTS = "requests"
    IMAGES = "images"
    CHARACTERS = "characters"
    AUDIO_SECONDS = "audio_seconds"
    STORAGE_BYTES = "storage_bytes"
    SESSIONS = "sessions"
    WEB_SEARCHES = "web_searches"
    FILE_SEARCHES = "file_searches"


_COUNTED: Mapping[Meter, Unit] = MappingProxyType(
    {
        Meter.REQUESTS: Unit.REQUESTS,
        Meter.IMAGES: Unit.IMAGES,
        Meter.CHARACTERS: Unit.CHARACTERS,
        Meter.AUDIO_SECONDS: Unit.SECONDS,
        Meter.STORAGE_BYTES: Unit.BYTES,
        Meter.SESSIONS: Unit.SESSIONS,
        Meter.WEB_SEARCHES: Unit.SEARCHES,
        Meter.FILE_SEARCHES: Unit.SEARCHES,
    }
)


def unit_of(meter: Meter) -> Unit:
    """The unit of the meter's quantities: tokens, unless it counts something else."""
    return _COUNTED.get(meter, Unit.TOKENS)


class PriceMatch(StrEnum):
    """How the price of an estimated amount was found. `unpriced`: there is none, and so no amount."""

    EXACT = "exact"
    ALIAS = "alias"
    NEGOTIATED = "negotiated"
    UNPRICED = "unpriced"


class Dimensions(Struct, frozen=True, kw_only=True):
    """What a quantity or an amount is for. None: the provider does not say, or it does not apply."""

    account_id: str
    project_id: str | None = None
    api_key_id: str | None = None
    service: str | None = None
    model: str | None = None
    service_tier: str | None = None
    is_batch: bool | None = None
    context_window: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    variant: str | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """One meter of one day, in the unit of the meter."""

    day: date
    of: Dimensions
    meter: Meter
    quantity: Decimal


class Cost(Struct, frozen=True, kw_only=True):
    """One amount of one day, as its source has it.

    `line_item` is the source's own name of it. `amount` is None where there is usage without a price,
    and then `price_match` says so. `unit_price` is for `priced_per(unit).size` of the unit.
    """

    day: date
    of: Dimensions
    amount: Decimal | None
    currency: str
    basis: CostBasis
    line_item: str | None = None
    meter: Meter | None = None
    quantity: Decimal | None = None
    unit: Unit | None = None
    unit_price: Decimal | None = None
    price_match: PriceMatch | None = None
    rate_card: str | None = None


def derived_price(amount: Decimal, quantity: Decimal, unit: Unit) -> Decimal | None:
    """The price that makes the amount of the quantity; None where none does that is not negative."""
    if quantity <= 0 or amount < 0:
        return None
    with localcontext(Context(prec=60, rounding=ROUND_HALF_EVEN)):
        return (amount * priced_per(unit).size / quantity).quantize(_SCALE)


def in_pricing_units(quantity: Decimal, unit: Unit) -> Decimal:
    """The quantity as prices count it: 1,500,000 tokens are 1.5."""
    with localcontext(Context(prec=60, rounding=ROUND_HALF_EVEN)):
        return (quantity / priced_per(unit).size).quantize(_SCALE)
