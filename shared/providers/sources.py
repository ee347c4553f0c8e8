"""The providers of generative AI that can be asked: an explicit list, by their names in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from shared.core.nearmiss import listed
from shared.errors import Terminal
from shared.providers import GenaiSource
from shared.providers.anthropic import Anthropic
from shared.providers.deepseek import DeepSeek
from shared.providers.openai import OpenAI

SOURCES: Mapping[str, GenaiSource] = MappingProxyType(
    {
        "anthropic": Anthropic(),
        "deepseek": DeepSeek(),
        "openai": OpenAI(),
    }
)


def source_of(provider: str) -> GenaiSource:
    """Raises Terminal (`no_usage_source`) for a provider that nobody here knows how to ask."""
    if provider not in SOURCES:
        raise Terminal(
            f"provider {provider!r} has no source of usage or costs here; known: {listed(SOURCES)}",
            code="no_usage_source",
        )
    return SOURCES[provider]
