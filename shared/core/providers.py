"""The registry of providers, `configs/system/providers.yml`: who they are, what a credential for them
holds, where their APIs are, and how fast they may be asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.core import yaml
from shared.core.nearmiss import clipped, did_you_mean, listed
from shared.core.places import UNREAD, Path, dotted, fault
from shared.core.record import Record
from shared.core.secret import Secret
from shared.core.typed import check
from shared.errors import ConfigError, Fault, NotFound, Terminal

FILE = PurePosixPath("system", "providers.yml")
NAME_PATTERN = "^[a-z][a-z0-9_-]{0,62}$"
FIELD_PATTERN = "^[a-z][a-z0-9_]{0,62}$"

_PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")  # of a field, in a preflight

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
FieldName = Annotated[str, Meta(pattern=FIELD_PATTERN)]
Url = Annotated[
    str,
    Meta(
        # without TLS only what is on this machine: the double of an API in tests
        pattern=r"^(https://[a-z0-9.-]+(:[0-9]+)?|http://(127\.0\.0\.1|localhost)(:[0-9]+)?)"
        r"(/[A-Za-z0-9._~-]+)*$",
        description="Where an API is, without a slash at its end.",
        examples=["https://api.example.com/v1"],
    ),
]


class Category(StrEnum):
    """What a provider sells."""

    GENAI = "genai"
    CLOUD = "cloud"
    SAAS = "saas"


class CredentialField(Record, frozen=True, kw_only=True):
    """One field of a credential, a text."""

    description: Annotated[str, Meta(description="What it is and where to find it.", min_length=1)]
    secret: Annotated[
        bool, Meta(description="True: it is sealed and never shown. False: it is metadata.")
    ]
    required: Annotated[bool, Meta(description="False: it may be left out.")] = True
    pattern: Annotated[
        str | None, Meta(description="A regular expression that the whole value matches.")
    ] = None


class Preflight(Record, frozen=True, kw_only=True):
    """A cheap way to ask whether a credential is good: a GET, a token, or a look at its source.

    In `path` and `headers` the text `{name}` stands for the credential's field of that name.
    """

    base_url: Annotated[str | None, Meta(description="Name of the API to ask.")] = None
    path: Annotated[str, Meta(description="Below the base_url; asked with GET.")] = ""
    params: dict[str, str] = {}
    headers: dict[str, str] = {}
    scope: Annotated[
        str | None, Meta(description="Ask Google for a token for it, and send that along.")
    ] = None
    lists: Annotated[
        FieldName | None, Meta(description="The field that names a source, which is listed.")
    ] = None
    needs: Annotated[str, Meta(description="The right that it takes, for people.")] = ""

    def fields(self) -> set[str]:
        """The fields that it cannot do without."""
        texts = (self.path, *self.headers.values())
        found = {name for text in texts for name in _PLACE.findall(text)}
        return found if self.lists is None else found | {self.lists}


def filled(text: str, fields: Mapping[str, str]) -> str:
    """The text of a preflight with the credential's fields where it names them."""
    return _PLACE.sub(lambda place: fields[place[1]], text)


class CredentialType(Record, frozen=True, kw_only=True):
    """One way to log in at a provider."""

    description: Annotated[str, Meta(description="When to use it, for people.", min_length=1)]
    fields: Annotated[
        dict[FieldName, CredentialField], Meta(description="What it holds, by name.")
    ] = {}
    ignored: Annotated[
        tuple[FieldName, ...],
        Meta(description="What the provider's own file has beside; it is not kept."),
    ] = ()
    preflight: Annotated[
        Preflight | None, Meta(description="How to find out whether it is good.")
    ] = None


class Rate(Record, frozen=True, kw_only=True):
    """How fast one account may be asked by one process."""

    requests_per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 60
    concurrent: Annotated[int, Meta(ge=1, le=256, description="Requests at the same time.")] = 4


class ProviderSpec(Record, frozen=True, kw_only=True):
    """One provider."""

    title: Annotated[str, Meta(description="Its name for people.", min_length=1, max_length=100)]
    category: Annotated[Category, Meta(description="What it sells.")]
    aliases: Annotated[
        tuple[Name, ...],
        Meta(description="Other names that people use for it.", examples=[["google"]]),
    ] = ()
    credentials: Annotated[
        dict[Name, CredentialType],
        Meta(description="The types of its credentials. None: it takes no credential."),
    ] = {}
    base_urls: Annotated[
        dict[Name, Url],
        Meta(
            description="Where its APIs are, by name. Steps send requests to these only.",
            examples=[{"api": "https://api.example.com/v1"}],
        ),
    ] = {}
    limits: Annotated[Rate, Meta(description="How fast its APIs may be asked.")] = Rate()


class Provider(ProviderSpec, frozen=True, kw_only=True, dict=True):
    """A provider of the registry, under the one name that is stored."""

    name: str

    def base_url(self, name: str) -> str:
        """Where its API of that name is. Raises Terminal, naming those that there are."""
        try:
            return self.base_urls[name]
        except KeyError:
            raise Terminal(
                f"provider {self.name}: has no base_url {name!r}{did_you_mean(name, self.base_urls)};"
                f" known: {listed(self.base_urls) or 'none'} (configs/{FILE})",
                code="config",
            ) from None

    @cached_property
    def shown(self) -> frozenset[str]:
        """The fields that are secret in none of its types."""
        kinds: dict[str, bool] = {}
        for kind in self.credentials.values():
            for name, field in kind.fields.items():
                kinds[name] = kinds.get(name, False) or field.secret
        return frozenset(name for name, secret in kinds.items() if not secret)

    def secrets_of(self, secret: Secret) -> Iterator[str]:
        """The texts of a sealed credential that no message may repeat."""
        value = secret.reveal()
        try:
            fields = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            hidden = {name: inner for name, inner in fields.items() if name not in self.shown}
            yield from _texts(hidden)
        else:
            yield value.decode(errors="replace")


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for inner in value:
                yield from _texts(inner)
        case dict():
            for inner in value.values():
                yield from _texts(inner)


class Providers:
    """The registry: each provider by its name or an alias of it."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._by_name = {provider.name: provider for provider in providers}
        self._known = {
            word: provider
            for provider in self._by_name.values()
            for word in (provider.name, *provider.aliases)
        }

    def find(self, word: str) -> Provider | None:
        """The provider of that name or alias."""
        return self._known.get(word)

    def get(self, word: str) -> Provider:
        """As `find`. Raises NotFound, naming the nearest one."""
        found = self._known.get(word)
        if found is None:
            raise NotFound(self.unknown(word), code="provider_not_found")
        return found

    def unknown(self, word: str) -> str:
        """What to say of a word that nobody goes by."""
        near = did_you_mean(word, self._known)
        return f"there is no provider {clipped(word)}{near}; known: {listed(self._by_name)}"

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._by_name.values())


def parse_providers(text: bytes, file: str) -> Providers:
    """The registry of a YAML text. Raises ConfigError with every fault as `file:line:column`."""
    source = yaml.read(file, text)
    places = _Places(source)
    faults = list(source.faults)
    if source.value is not UNREAD:
        faults += check(source.value, dict[Name, ProviderSpec], places)
        if isinstance(source.value, dict):
            faults += _doubles(source.value, places)
            faults += _patterns(source.value, places)
    if faults:
        raise ConfigError(faults)
    specs = msgspec.convert(source.value, dict[str, ProviderSpec])
    faults = [wrong for name, spec in specs.items() for wrong in _preflights(name, spec, places)]
    if faults:
        raise ConfigError(faults)
    return Providers(
        Provider(name=name, **{key: getattr(spec, key) for key in ProviderSpec.__struct_fields__})
        for name, spec in specs.items()
    )


class _Places:
    """Places of the file: line and column, and the keys that lead there."""

    echo = True

    def __init__(self, source: yaml.Source) -> None:
        self._source = source

    def at(self, path: Path, *, key: bool = False) -> str:
        return self._source.at(path, key=key)

    def label(self, path: Path) -> str:
        return dotted(path) or "the file"


def _doubles(raw: Mapping[str, Any], places: _Places) -> list[Fault]:
    """A word that two providers go by."""
    faults = []
    first = {name: name for name in raw}
    for name, spec in raw.items():
        aliases = spec.get("aliases") if isinstance(spec, dict) else None
        for index, alias in enumerate(aliases if isinstance(aliases, list) else ()):
            if isinstance(alias, str) and alias in first:
                message = f"{clipped(alias)} names the provider {first[alias]!r} already"
                faults.append(fault(places, (name, "aliases", index), message))
            elif isinstance(alias, str):
                first[alias] = name
    return faults


def _patterns(raw: Mapping[str, Any], places: _Places) -> list[Fault]:
    """A pattern that is no regular expression."""
    faults = []
    for path, pattern in _walked(raw, ()):
        try:
            re.compile(pattern)
        except re.error as error:
            faults.append(fault(places, path, f"is no regular expression: {error}"))
    return faults


def _preflights(name: str, spec: ProviderSpec, places: _Places) -> Iterator[Fault]:
    """A preflight that names what its provider or its credential does not have."""
    for kind, credential in spec.credentials.items():
        preflight = credential.preflight
        if preflight is None:
            continue
        at: Path = (name, "credentials", kind, "preflight")
        for field in sorted(preflight.fields() - credential.fields.keys()):
            near = did_you_mean(field, credential.fields)
            yield fault(places, at, f"names {field!r}, which is no field of {kind}{near}")
        needed = {preflight.base_url} if preflight.base_url else set()
        for url in sorted(
            (needed | ({"token"} if preflight.scope else set())) - set(spec.base_urls)
        ):
            yield fault(places, at, f"needs the base_url {url!r}, which {name} has not")
        if not (preflight.base_url or preflight.scope or preflight.lists):
            yield fault(places, at, "asks nothing: it needs a base_url, a scope or lists")


def _walked(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key == "pattern" and isinstance(inner, str):
            yield (*path, key), inner
        yield from _walked(inner, (*path, key))
