"""Tokens are counted once, prices are told in units that FOCUS knows, and line items are read with care."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.genai import Meter, Unit, derived_price, in_pricing_units, priced_per, unit_of
from shared.core.genai import Unit as Units
from shared.providers.openai import LineItem, completion_meters, parse_line_item

counts = st.integers(0, 10**12)


@given(counts, counts, counts, counts, counts, counts, counts, counts, st.booleans(), st.booleans())
def test_the_meters_of_completions_add_up_to_their_totals(
    text: int,
    audio: int,
    image: int,
    cached: int,
    cached_audio: int,
    written: int,
    output: int,
    output_audio: int,
    tells_text: bool,
    tells_fresh: bool,
) -> None:
    fresh, from_cache = text + audio + image, cached + cached_audio
    result = {
        "input_tokens": fresh + from_cache + written,
        "input_cached_tokens": from_cache,
        "input_cache_write_tokens": written,
        "input_audio_tokens": audio,
        "input_image_tokens": image,
        "input_cached_audio_tokens": cached_audio,
        "output_tokens": output + output_audio,
        "output_audio_tokens": output_audio,
        "num_model_requests": 3,
    }
    if tells_fresh:
        result["input_uncached_tokens"] = fresh
    if tells_text:
        result |= {"input_text_tokens": text, "input_cached_text_tokens": cached}
    meters = dict(completion_meters("here", result))
    assert meters.pop(Meter.REQUESTS) == 3
    assert (meters[Meter.INPUT], meters[Meter.CACHED_INPUT], meters[Meter.OUTPUT]) == (
        text,
        cached,
        output,
    )
    tokens = {meter: n for meter, n in meters.items() if unit_of(meter) is Units.TOKENS}
    assert sum(tokens.values()) == result["input_tokens"] + result["output_tokens"]


def test_tokens_of_a_kind_that_nobody_knows_are_kept_apart() -> None:
    meters = completion_meters(
        "here",
        {
            "input_tokens": 100,
            "input_text_tokens": 60,
            "output_tokens": 10,
            "num_model_requests": 1,
        },
    )
    assert (meters[Meter.INPUT], meters[Meter.INPUT_OTHER]) == (60, 40)


@pytest.mark.parametrize(
    ("item", "parsed"),
    [
        ("gpt-5.5-2026-04-23, input", LineItem("gpt-5.5-2026-04-23", Meter.INPUT)),
        ("gpt-5.5, cached input", LineItem("gpt-5.5", Meter.CACHED_INPUT)),
        ("gpt-5.5, cache writes", LineItem("gpt-5.5", Meter.CACHE_WRITE)),
        (
            "priority | gpt-5.6-sol, output, long context",
            LineItem("gpt-5.6-sol", Meter.OUTPUT, "priority", "long"),
        ),
        (
            "gpt-audio-mini-2025-12-15 audio, input",
            LineItem("gpt-audio-mini-2025-12-15", Meter.INPUT_AUDIO),
        ),
        ("gpt-image-2.5-flare image, output", LineItem("gpt-image-2.5-flare", Meter.OUTPUT_IMAGE)),
        ("web search tool calls", LineItem()),
        ("assistants api | file search", LineItem()),
        ("whisper-1, audio", LineItem()),
        ("Vector storage", LineItem()),
        ("", LineItem()),
    ],
)
def test_a_line_item_says_its_model_where_it_has_the_usual_form(
    item: str, parsed: LineItem
) -> None:
    assert parse_line_item(item) == parsed


amounts = st.decimals(0, 10**9, places=12)
quantities = st.decimals("0.000001", 10**12, places=6)


@given(amounts, quantities, st.sampled_from(Unit))
def test_price_times_quantity_is_the_amount(amount: Decimal, quantity: Decimal, unit: Unit) -> None:
    price = derived_price(amount, quantity, unit)
    assert price is not None
    counted = quantity / priced_per(unit).size
    assert abs(price * counted - amount) <= counted * Decimal("1e-18") + amount * Decimal("1e-25")


def test_an_amount_that_no_price_makes_has_none() -> None:
    assert derived_price(Decimal(-1), Decimal(10), Unit.TOKENS) is None
    assert derived_price(Decimal(1), Decimal(0), Unit.TOKENS) is None


def test_prices_of_tokens_are_told_by_the_million() -> None:
    assert priced_per(Unit.TOKENS).unit == "1000000 Tokens"
    assert in_pricing_units(Decimal(1_500_000), Unit.TOKENS) == Decimal("1.5")
    assert derived_price(Decimal("0.1"), Decimal(80_000), Unit.TOKENS) == Decimal("1.25")
