"""Points a provider of a configuration at a server of the test."""

from __future__ import annotations

from pathlib import Path

from shared.bootstrap import load_providers
from shared.core.providers import FILE


def addresses_at(configs: Path, provider: str, url: str) -> dict[str, str]:
    """The provider's base_urls, with the paths that they have, at `url`/NAME."""
    return {name: f"{url}/{name}" for name in load_providers(configs).get(provider).base_urls}


def point_at(configs: Path, provider: str, url: str) -> None:
    """Changes the registry in `configs`, before a system reads it: NAME of its base_urls is `url`/NAME."""
    old = load_providers(configs).get(provider).base_urls
    text = (configs / FILE).read_text()
    for name, new in addresses_at(configs, provider, url).items():
        text = text.replace(f'"{old[name]}"', f'"{new}"')
    (configs / FILE).write_text(text)
