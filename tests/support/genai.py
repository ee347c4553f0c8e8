"""Providers of generative AI, as far as their reports go: buckets of days, paged, with faults on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from tests.support.api import Api, Asked, Said, Write

Result = Mapping[str, Any]
ADMIN_KEYS = {"openai": "sk-admin-0123456789", "anthropic": "sk-ant-admin01-0123456789"}


class Reports:
    """What both reports have in common. `results` are by path and day; `fault` may answer instead.

    `fault` gets the request and how many came before it; `buckets` is the size of a page.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.results: dict[tuple[str, date], list[Result]] = {}
        self.totals: dict[date, list[Result]] = {}
        self.fault: Callable[[Asked, int], Said | Write | None] = lambda asked, before: None
        self.buckets = 31
        self.silent: set[date] = set()
        self.api = Api()
        self.api.answer = self._answer

    def _answer(self, asked: Asked) -> Said | Write:
        fault = self.fault(asked, len(self.api.asked) - 1)
        if fault is not None:
            return fault
        refused = self._refuses(asked)
        if refused is not None:
            return refused
        window = [day for day in self._window(asked) if day not in self.silent]
        page = asked.query.get("page")
        start = int(page[0].removeprefix("page_")) if page else 0
        limit = min(int(asked.query.get("limit", ["7"])[0]), self.buckets)
        more = start + limit < len(window)
        return Said(
            body=msgspec.json.encode(
                {
                    "object": "page",
                    "data": [self._bucket(asked, day) for day in window[start : start + limit]],
                    "has_more": more,
                    "next_page": f"page_{start + limit}" if more else None,
                }
            )
        )

    def _found(self, asked: Asked, day: date) -> Sequence[Result]:
        _, _, path = asked.path.partition("/organization")
        path = path.removeprefix("s").removeprefix("/")
        if self._grouped(asked) or day not in self.totals:
            return self.results.get((path, day), [])
        return self.totals[day]

    def _grouped(self, asked: Asked) -> bool:
        raise NotImplementedError

    def _bucket(self, asked: Asked, day: date) -> dict[str, Any]:
        raise NotImplementedError

    def _window(self, asked: Asked) -> list[date]:
        raise NotImplementedError

    def _refuses(self, asked: Asked) -> Said | None:
        raise NotImplementedError


def between(first: date, end: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((end - first).days)]


class OpenAIReports(Reports):
    """`/v1/organization/usage/…` and `/v1/organization/costs`."""

    def __init__(self) -> None:
        super().__init__("openai")

    def _grouped(self, asked: Asked) -> bool:
        return "group_by" in asked.query

    def _window(self, asked: Asked) -> list[date]:
        start, end = (
            datetime.fromtimestamp(int(asked.query[name][0]), UTC).date()
            for name in ("start_time", "end_time")
        )
        return between(start, end)

    def _bucket(self, asked: Asked, day: date) -> dict[str, Any]:
        start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
        return {
            "object": "bucket",
            "start_time": start,
            "end_time": start + 86400,
            "results": self._found(asked, day),
        }

    def _refuses(self, asked: Asked) -> Said | None:
        most = 180 if asked.path.endswith("/costs") else 31
        if int(asked.query.get("limit", ["7"])[0]) > most:
            return Said(400, _openai_error(f"limit must be at most {most}"))
        if asked.headers.get("authorization") != f"Bearer {ADMIN_KEYS['openai']}":
            return Said(401, _openai_error("Incorrect API key provided"))
        return None


def _openai_error(message: str) -> dict[str, Any]:
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    }


class AnthropicReports(Reports):
    """`/v1/organizations/usage_report/messages` and `/v1/organizations/cost_report`."""

    def __init__(self) -> None:
        super().__init__("anthropic")

    def _grouped(self, asked: Asked) -> bool:
        return "group_by[]" in asked.query

    def _window(self, asked: Asked) -> list[date]:
        start, end = (
            datetime.fromisoformat(asked.query[name][0]).date()
            for name in ("starting_at", "ending_at")
        )
        return between(start, end)

    def _bucket(self, asked: Asked, day: date) -> dict[str, Any]:
        return {
            "starting_at": f"{day}T00:00:00Z",
            "ending_at": f"{day + timedelta(days=1)}T00:00:00Z",
            "results": self._found(asked, day),
        }

    def _refuses(self, asked: Asked) -> Said | None:
        if int(asked.query.get("limit", ["7"])[0]) > 31:
            return Said(400, _anthropic_error("invalid_request_error", "limit must be at most 31"))
        if asked.headers.get("x-api-key") != ADMIN_KEYS["anthropic"]:
            return Said(401, _anthropic_error("authentication_error", "invalid x-api-key"))
        return None


def _anthropic_error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def completion(model: str = "gpt-5-2025-08-07", **changes: Any) -> dict[str, Any]:
    """A result of OpenAI's completions whose parts add up."""
    made = {
        "object": "organization.usage.completions.result",
        "input_tokens": 9000,
        "input_cached_tokens": 2500,
        "input_cache_write_tokens": 500,
        "input_uncached_tokens": 6000,
        "input_text_tokens": 5200,
        "input_audio_tokens": 500,
        "input_image_tokens": 300,
        "input_cached_text_tokens": 2300,
        "input_cached_audio_tokens": 150,
        "input_cached_image_tokens": 50,
        "output_tokens": 1200,
        "output_text_tokens": 1100,
        "output_audio_tokens": 100,
        "output_image_tokens": 0,
        "num_model_requests": 14,
        "project_id": "proj_1",
        "user_id": None,
        "api_key_id": "key_1",
        "model": model,
        "batch": False,
        "service_tier": "default",
    }
    return {**made, **changes}


def openai_cost(value: str, item: str | None, **changes: Any) -> dict[str, Any]:
    """A result of OpenAI's costs, its amount a number of these digits."""
    made = {
        "object": "organization.costs.result",
        "amount": {"value": msgspec.Raw(value.encode()), "currency": "usd"},
        "line_item": item,
        "project_id": "proj_1",
        "api_key_id": "key_1",
        "quantity": None,
        "quantity_unit": None,
    }
    return {**made, **changes}


def message_usage(model: str = "claude-sonnet-4-5", **changes: Any) -> dict[str, Any]:
    """A result of Anthropic's messages report."""
    made = {
        "uncached_input_tokens": 1000,
        "cache_read_input_tokens": 400,
        "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 7},
        "output_tokens": 250,
        "server_tool_use": {"web_search_requests": 2},
        "account_id": None,
        "service_account_id": None,
        "api_key_id": "apikey_1",
        "workspace_id": "wrkspc_1",
        "model": model,
        "service_tier": "standard",
        "context_window": "0-200k",
        "inference_geo": "global",
        "speed": "standard",
    }
    return {**made, **changes}


def anthropic_cost(cents: str, **changes: Any) -> dict[str, Any]:
    """A result of Anthropic's cost report, in cents."""
    made = {
        "amount": cents,
        "currency": "USD",
        "cost_type": "tokens",
        "token_type": "output_tokens",
        "description": "Claude Sonnet 4.5 Usage - Output Tokens",
        "model": "claude-sonnet-4-5",
        "service_tier": "standard",
        "context_window": "0-200k",
        "inference_geo": None,
        "workspace_id": "wrkspc_1",
    }
    return {**made, **changes}
