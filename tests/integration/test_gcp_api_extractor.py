"""Lists of a Google Cloud API: read to the end and exact, or nothing is changed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.core.secret import Secret
from shared.errors import StepError, Terminal, Transient
from shared.processors.gcp_api_extractor import GcpApiExtractorConfig
from shared.settings import ROOT
from shared.step import StepResult
from shared.warehouse import Value
from shared.warehouse.duckdb import DuckdbWarehouse
from tests.support.api import Api, Asked, Said, Write, cut
from tests.support.google import EMAIL, carries_token, given_token, key_file
from tests.support.providers import addresses_at
from tests.support.step import CREATED, BareStep, run

_numbers = itertools.count(1)
CONFIG: dict[str, Any] = {
    "base_url": "resource_manager",
    "path": "/v3/projects:search",
    "params": {"pageSize": "2"},
    "data_path": "projects",
    "table": "gcp_projects",
    "key": ["name"],
    "right": "roles/browser",
    "columns": {
        "name": {"path": "name"},
        "folder": {"path": "parent.id"},
        "created_at": {"path": "createTime", "type": "timestamp"},
        "number": {"path": "number", "type": "integer"},
        "ratio": {"path": "ratio", "type": "decimal"},
        "active": {"path": "active", "type": "boolean"},
        "labels": {"path": "labels", "type": "json"},
    },
}


class Lists:
    """Pages of a list, served as Google serves them, to who has a token."""

    def __init__(self, api: Api) -> None:
        self.pages: list[Any] = []
        self.api = api
        api.answer = self.answer

    def answer(self, asked: Asked) -> Said | Write:
        if token := given_token(asked):
            return token
        if not carries_token(asked):
            return Said(401, {"error": {"message": "no token"}})
        (number,) = asked.query.get("pageToken", ["0"])
        page = self.pages[int(number)]
        if not isinstance(page, list):
            return page  # type: ignore[no-any-return]  # an answer of its own
        body: dict[str, Any] = {"projects": page} if page else {}
        if int(number) + 1 < len(self.pages):
            body["nextPageToken"] = str(int(number) + 1)
        return Said(body=body)

    @property
    def asked(self) -> list[Asked]:
        return [asked for asked in self.api.asked if not asked.path.endswith("/token")]


@pytest.fixture
def lists() -> Iterator[Lists]:
    with Api() as api:
        yield Lists(api)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckdbWarehouse]:
    procedures = ROOT / "configs" / "system" / "procedures"
    file = tmp_path_factory.mktemp("warehouse") / "warehouse.duckdb"
    opened = DuckdbWarehouse(file, procedures, lambda: CREATED)
    yield opened
    opened.close()


@pytest.fixture
def step(tmp_path: Path, lists: Lists, warehouse: DuckdbWarehouse) -> BareStep:
    dataset = f"acme_{next(_numbers)}"
    warehouse.create_dataset(dataset)
    return BareStep(
        tmp_path,
        warehouse,
        date(2026, 3, 1),
        date(2026, 3, 2),
        dataset=dataset,
        pipeline_id="gcp_inventory_accounts",
        provider="gcp",
        secret=Secret(key_file()),
        base_urls=addresses_at(ROOT / "configs", "gcp", lists.api.url),
    )


def extract(step: BareStep, **changes: Any) -> StepResult:
    return run("GcpApiExtractor", step, CONFIG | changes)


def rows(step: BareStep, columns: str = "name") -> list[tuple[Value, ...]]:
    sql = f"SELECT {columns} FROM gcp_projects ORDER BY name"
    return step.warehouse.query(step.dataset, sql, {}).rows


def refused(call: Callable[[], object]) -> StepError:
    with pytest.raises(StepError) as caught:
        call()
    return caught.value


def projects(*numbers: int) -> list[dict[str, Any]]:
    return [{"name": f"projects/{number}"} for number in numbers]


def later(step: BareStep) -> BareStep:
    """The same step of a run that began an hour after."""
    at = step.run_created_at + timedelta(hours=1)
    return step.another(run_id="r2", run_created_at=at)


def test_every_page_is_loaded_as_one_slice_of_the_last_day(lists: Lists, step: BareStep) -> None:
    lists.pages = [projects(1, 2), projects(3, 4), projects(5)]
    result = extract(step)
    assert rows(step) == [(f"projects/{number}",) for number in range(1, 6)]
    (receipt,) = result.evidence.loads
    assert [(made.run_date, made.rows) for made in receipt.slices] == [(date(2026, 3, 2), 5)]
    assert result.summary.message == "5 projects from 3 pages"
    assert result.evidence.credential_version == "3"
    assert result.evidence.objects[0].endswith("/v3/projects:search: 3 pages, to the end")
    assert [asked.query["pageSize"] for asked in lists.asked] == [["2"]] * 3


def test_values_have_their_types_and_all_their_digits(lists: Lists, step: BareStep) -> None:
    body = (
        b'{"projects": [{"name": "a", "parent": {"type": "folder", "id": "7"}, '
        b'"createTime": "2026-01-31T23:59:59.123456Z", "number": "415104041262", '
        b'"ratio": 0.100000000000000001, "active": false, "labels": {"b": 1.10, "a": [null]}}]}'
    )
    lists.pages = [Said(body=body)]
    extract(step)
    ((folder, created, number, ratio, active, labels),) = rows(
        step, "folder, created_at, number, ratio, active, labels"
    )
    assert (folder, number, active) == ("7", 415104041262, False)
    assert str(created) == "2026-01-31 23:59:59.123456+00:00"
    assert ratio == Decimal("0.100000000000000001")
    assert labels == '{"a":[null],"b":1.10}'


def test_fields_without_a_column_are_kept_and_reported(lists: Lists, step: BareStep) -> None:
    lists.pages = [[{"name": "a", "new": {"deep": [1.5]}, "etag": "x"}, {"name": "b"}]]
    result = extract(step)
    assert rows(step, "x_unknown") == [('{"etag":"x","new":{"deep":[1.5]}}',), (None,)]
    (finding,) = result.evidence.loads[0].findings
    assert (finding.code, finding.rows) == ("unknown_columns", 1)
    assert "etag, new" in finding.message


def test_an_entry_on_two_pages_is_loaded_once(lists: Lists, step: BareStep) -> None:
    lists.pages = [projects(1, 2), projects(2, 3)]
    result = extract(step)
    assert len(rows(step)) == 3
    (finding,) = result.evidence.loads[0].findings
    assert (finding.code, finding.rows) == ("repeated_entries", 1)


def test_what_is_gone_from_the_list_is_gone_from_the_slice(lists: Lists, step: BareStep) -> None:
    lists.pages = [projects(1, 2, 3)]
    extract(step)
    lists.pages = [projects(2)]
    extract(later(step))
    assert rows(step) == [("projects/2",)]


def test_the_same_list_has_the_same_version(lists: Lists, step: BareStep) -> None:
    lists.pages = [projects(1, 2), projects(3)]
    first = extract(step).evidence.loads[0].source_version
    lists.pages = [projects(1), projects(2, 3)]
    assert extract(later(step)).evidence.loads[0].source_version == first
    lists.pages = [projects(1, 2, 4)]
    assert extract(later(step)).evidence.loads[0].source_version != first


# --- nothing, and not allowed ---


@pytest.mark.parametrize("pages", [[[]], [[], [], []]])
def test_an_empty_list_is_a_failure_that_says_what_to_do(
    lists: Lists, step: BareStep, pages: list[Any]
) -> None:
    lists.pages = [projects(1)]
    extract(step)
    lists.pages = pages
    error = refused(lambda: extract(later(step)))
    assert isinstance(error, Terminal)
    assert error.code == "empty_list"
    assert "give the service account roles/browser, or set allow_empty" in str(error)
    assert len(rows(step)) == 1


def test_an_empty_list_that_is_allowed_leaves_an_empty_slice(lists: Lists, step: BareStep) -> None:
    lists.pages = [projects(1)]
    extract(step)
    lists.pages = [[], []]
    result = extract(later(step), allow_empty=True)
    assert result.summary.no_data
    assert rows(step) == []


def test_a_page_without_entries_is_not_the_end(lists: Lists, step: BareStep) -> None:
    lists.pages = [[], projects(1), [], projects(2)]
    extract(step)
    assert len(rows(step)) == 2


def test_a_wrong_data_path_is_no_empty_list(lists: Lists, step: BareStep) -> None:
    lists.pages = [projects(1)]
    error = refused(lambda: extract(step, data_path="project", allow_empty=True))
    assert error.code == "unexpected_answer"
    assert "no list 'project' but projects; mend data_path" in str(error)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "forbidden"), (401, "unauthorized"), (404, "http_404")]
)
def test_a_refusal_is_terminal_and_names_the_right(
    lists: Lists, step: BareStep, status: int, code: str
) -> None:
    said = Said(status, {"error": {"message": "The caller does not have permission"}})
    lists.pages = [projects(1), said]
    error = refused(lambda: extract(step, allow_empty=True))
    assert isinstance(error, Terminal)
    assert error.code == code
    assert "The caller does not have permission" in str(error)
    assert ("roles/browser" in str(error)) == (status != 404)
    assert step.warehouse.loads(step.dataset) == []


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Said(429, {}, {"retry-after": "30"}), "rate_limited"),
        (Said(403, {"error": {"details": [{"reason": "RATE_LIMIT_EXCEEDED"}]}}), "rate_limited"),
        (Said(503), "http_503"),
        (cut(b'{"projects": [{"name": "x"}'), "unreachable"),
        (Said(body=b'{"projects": [{"name": "x"}'), "unreadable_answer"),
    ],
)
def test_a_page_that_does_not_come_whole_changes_nothing_and_is_worth_another_try(
    lists: Lists, step: BareStep, said: Said | Write, code: str
) -> None:
    lists.pages = [projects(1)]
    extract(step)
    lists.pages = [projects(2), said, projects(3)]
    error = refused(lambda: extract(later(step)))
    assert isinstance(error, Transient)
    assert error.code == code
    assert rows(step) == [("projects/1",)]


def test_a_page_that_leads_back_ends_the_step(lists: Lists, step: BareStep) -> None:
    again = {"projects": projects(1), "nextPageToken": "1"}
    lists.pages = [projects(0), Said(body=again)]
    error = refused(lambda: extract(step))
    assert isinstance(error, Terminal)
    assert error.code == "repeating_page"
    assert len(lists.asked) == 2
    assert step.warehouse.loads(step.dataset) == []


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"parent": {"id": "1"}}, "name: is null"),
        ({"name": "a", "number": "many"}, "number"),
        ({"name": ["a"]}, "name: name is no single value"),
    ],
)
def test_an_entry_that_does_not_fit_fails_the_load(
    lists: Lists, step: BareStep, entry: dict[str, Any], reason: str
) -> None:
    lists.pages = [[entry]]
    error = refused(lambda: extract(step))
    assert error.code == "reject_threshold"
    assert reason in str(error)


@pytest.mark.parametrize("page", [[], {"projects": {"a": 1}}, {"projects": [1]}])
def test_an_answer_that_is_no_page_is_refused(lists: Lists, step: BareStep, page: Any) -> None:
    lists.pages = [Said(body=json.dumps(page).encode())]
    assert refused(lambda: extract(step)).code == "unexpected_answer"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"key": ["id"]}, "key: id is not one of the columns"),
        ({"params": {"pageToken": "1"}}, "params: pageToken is given by the extractor"),
        ({"columns": {"x_unknown": {"path": "a"}}, "key": ["x_unknown"]}, "x_unknown is made"),
        ({"path": "https://evil.example/"}, "path"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(CONFIG | changes, GcpApiExtractorConfig)


def test_who_has_no_right_is_named_by_its_address(lists: Lists, step: BareStep) -> None:
    lists.pages = [Said(403, {"error": {"message": "denied"}})]
    opened = step.credential()
    shown = msgspec.structs.replace(opened.info, metadata={"client_email": EMAIL})
    step.credential = lambda: opened._replace(info=shown)  # type: ignore[method-assign]
    assert f"give {EMAIL} roles/browser" in str(refused(lambda: extract(step)))
