"""The command line as a person meets it: a real `pipelines dev`, and real commands against it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PIPELINES = (sys.executable, "-m", "shared.cli")
CONFIGS = {
    "acme/test/quick.yml": """\
pipeline_id: quick
provider: acme
domain: test
description: Two steps that do nothing.
variables: {rows: 1234}
steps:
  - {step_id: extract, ps_type: generic.noop, config: {rows: "{rows}"}}
  - {step_id: report, ps_type: generic.noop}
""",
    "acme/test/slow.yml": """\
pipeline_id: slow
provider: acme
domain: test
steps:
  - {step_id: wait, ps_type: generic.noop, config: {sleep_seconds: 60}}
""",
    "acme/test/late.yml": """\
pipeline_id: late
provider: acme
domain: test
steps:
  - step_id: wait
    ps_type: generic.noop
    config: {sleep_seconds: 30}
    timeout_seconds: 1
    retry: {max_attempts: 1}
  - {step_id: after, ps_type: generic.noop}
""",
}
TEN_FAULTS = """\
pipeline_id: Bad Name
provider: acme
domain: test
timeout_minutes: 0
unknown_field: 1
schedule: "99 * * * *"
steps:
  - step_id: extract
    ps_type: generic.nop
  - step_id: extract
    ps_type: generic.noop
    config: {sleep: 1}
    depends_on: [extrct]
    timeout_seconds: soon
  - step_id: load
    ps_type: generic.noop
    config: {rows: "{rws}"}
    retry: {max_attempts: 0}
"""


class Dev(NamedTuple):
    """A running `pipelines dev`."""

    process: subprocess.Popen[str]
    url: str
    data: Path
    welcome: str


def environ(data: Path, **more: str) -> dict[str, str]:
    """The environment of a stranger: nothing of ours is set but what the test names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINES_")}
    return kept | {"PIPELINES_DATA": str(data), "NO_COLOR": "1"} | more


def start(data: Path, configs: Path) -> Dev:
    process = subprocess.Popen(
        [*PIPELINES, "dev", "--port", "0"],
        cwd=ROOT,
        env=environ(data, PIPELINES_CONFIGS=str(configs)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    welcome = ""
    for told in process.stdout:
        welcome += told
        if told.startswith("Ctrl-C"):
            break
    found = re.search(r"http://\S+", welcome)
    assert found, welcome + (process.communicate()[1] if process.poll() is not None else "")
    return Dev(process, found.group(), data, welcome)


def stop(dev: Dev, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    if dev.process.poll() is None:
        dev.process.send_signal(how)
    _, told = dev.process.communicate(timeout=60)
    return dev.process.returncode, told


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("configs")
    system = {
        name: (ROOT / "configs" / name).read_text()
        for name in ("system/plans.yml", "system/providers.yml")
    }
    system["system/providers.yml"] += "\nacme: {title: Acme, category: saas}\n"
    for name, text in {**CONFIGS, **system}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory, configs: Path) -> Iterator[Dev]:
    made = start(tmp_path_factory.mktemp("data"), configs)
    yield made
    stop(made)


class Shell:
    """Runs commands against a `pipelines dev`."""

    def __init__(self, dev: Dev) -> None:
        self.dev = dev
        self.environ: Mapping[str, str] = environ(dev.data, PIPELINES_URL=dev.url)

    def __call__(
        self,
        *arguments: str,
        code: int = 0,
        stdin: str = "",
        more: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*PIPELINES, *arguments],
            cwd=ROOT,
            env={**self.environ, **(more or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def shell(dev: Dev) -> Shell:
    made = Shell(dev)
    made("orgs", "create", "acme", "--plan", "scale")
    made("orgs", "create", "small")
    return made


def test_a_stranger_gets_from_nothing_to_a_finished_run(shell: Shell, dev: Dev) -> None:
    assert "acme" in shell("orgs", "list").stdout
    made = shell("keys", "create", "laptop", "--org", "acme")
    key = made.stdout.strip()
    assert key.startswith("cpk_")
    assert key not in shell("keys", "list", "--org", "acme").stdout
    assert "acme/test/quick" in shell("catalog", "--org", "acme").stdout

    own = {"PIPELINES_API_KEY": key, "PIPELINES_ORG": "acme"}
    done = shell("run", "acme/test/quick", "--param", "rows=77", more=own)
    assert re.search(r"extract +completed +1/3 +\d.* 77 +77 +0", done.stdout), done.stdout
    assert "report" in done.stderr
    run_id = re.findall(r"run +(r[0-9a-f]{25})", done.stdout)[0]

    assert "status      completed in" in shell("status", run_id, more=own).stdout
    assert run_id in shell("history", "--status", "completed", more=own).stdout
    assert re.search(r"today +1 +100 +99 ", shell("quota", more=own).stdout)
    moves = shell("logs", run_id, "--transitions", more=own).stdout
    assert "run         completed" in re.sub(r" +", "         ", moves.splitlines()[-1])
    assert "extract" in shell("logs", run_id, "--steps", more=own).stdout
    assert shell("logs", run_id, more=own).stdout == ""
    assert "extract, attempt 1" in shell("evidence", run_id, more=own).stdout


def test_json_is_what_the_api_says_to_the_byte(shell: Shell, dev: Dev) -> None:
    key = (dev.data / "platform.key").read_text()
    asked = urllib.request.Request(f"{dev.url}/api/v1/admin/orgs/acme", headers={"X-API-Key": key})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        raw = answer.read().decode()
    assert shell("orgs", "show", "acme", "--json").stdout == raw
    refused = shell("orgs", "show", "nobody", "--json", code=2)
    assert json.loads(refused.stdout)["error"] == "org_not_found"


def test_a_failed_run_says_which_step_and_why_and_exits_with_1(shell: Shell) -> None:
    done = shell("run", "acme/test/late", "--org", "acme", code=1)
    assert "failed" in done.stdout
    assert "wait: " in done.stdout
    assert "wait did not complete" in done.stdout


def test_a_full_quota_is_exit_code_3_and_a_cancelled_run_gives_it_back(shell: Shell) -> None:
    run_id = shell("run", "acme/test/slow", "--org", "small", "--no-wait").stdout.strip()
    full = shell("run", "acme/test/quick", "--org", "small", code=3)
    assert "the concurrent limit of 1 runs is reached (1 used)" in full.stderr
    assert "worth trying again in" in full.stderr
    shell("cancel", run_id, "--org", "small")
    _until(lambda: shell.json("status", run_id, "--org", "small")["status"] == "cancelled")
    _until(lambda: shell.json("quota", "--org", "small")["concurrent"] == 0)


def test_an_idempotency_key_starts_one_run(shell: Shell) -> None:
    command = ("run", "acme/test/quick", "--org", "acme", "--idempotency-key", "k1", "--no-wait")
    assert shell(*command).stdout == shell(*command).stdout
    other = shell(*command, "--param", "rows=5", code=2)
    assert "use a new key for a new request" in other.stderr


def test_a_dry_run_shows_the_plan_and_starts_nothing(shell: Shell) -> None:
    before = shell.json("quota", "--org", "acme")["today"]
    done = shell("run", "acme/test/quick", "--org", "acme", "--dry-run")
    assert "nothing was started" in done.stdout
    assert "rows=1234" in done.stdout
    assert shell.json("quota", "--org", "acme")["today"] == before


@pytest.mark.parametrize(
    ("arguments", "more", "said"),
    [
        (["quota", "--org", "acme"], {"PIPELINES_API_KEY": "cpk_wrong"}, "is not known"),
        (["quota", "--org", "acme"], {"PIPELINES_DATA": "/nowhere"}, "set PIPELINES_API_KEY"),
        (["quota", "--org", "nobody"], {}, "there is no organization 'nobody'"),
        (["quota"], {}, "which organization? give --org ORG"),
        (["run", "acme/test/quik", "-o", "acme"], {}, "did you mean 'acme/test/quick'?"),
        (["run", "quick", "-o", "acme"], {}, "PROVIDER/DOMAIN/PIPELINE"),
        (["run", "acme/test/quick", "-o", "acme", "--param", "rws=1"], {}, "parameters.rws"),
        (["status", "r0", "-o", "acme"], {}, "there is no run 'r0'"),
        (["orgs", "create", "A!"], {}, "error:"),
        (["orgs", "create", "fine", "--plan", "gold"], {}, "gold"),
        (["orgs", "status", "acme", "ASLEEP"], {}, "status"),
        (["history", "-o", "acme", "--status", "done"], {}, "status must be one of"),
        (["catalog", "-o", "acme"], {"PIPELINES_URL": "nonsense"}, "PIPELINES_URL"),
        (["catalog", "-o", "acme"], {"PIPELINES_ORGG": "x"}, "PIPELINES_ORGG is not a setting"),
        (["logs", "r0", "-o", "acme", "--steps", "--transitions"], {}, "give one of them"),
        (["credentials", "put", "aws", "m", "-o", "acme", "--secret", "/no"], {}, "No such file"),
        (["credentials", "put", "aws", "m", "-o", "acme", "--metadata", "x"], {}, "key=value"),
        (["runs"], {}, "No such command"),
    ],
)
def test_a_persons_mistake_is_exit_code_2_with_words(
    shell: Shell, arguments: list[str], more: dict[str, str], said: str
) -> None:
    assert said in shell(*arguments, code=2, more=more).stderr


def test_both_dates_are_refused_at_once(shell: Shell) -> None:
    dates = ("--start-date", "2026-13-01", "--end-date", "tomorrow")
    done = shell("run", "acme/test/quick", "--org", "acme", *dates, code=2)
    assert "start_date" in done.stderr
    assert "end_date" in done.stderr


def test_without_an_api_the_exit_code_is_4_and_says_how_to_get_one(shell: Shell) -> None:
    done = shell("quota", "--org", "acme", code=4, more={"PIPELINES_URL": "http://127.0.0.1:9"})
    assert "no API at http://127.0.0.1:9" in done.stderr
    assert "pipelines dev" in done.stderr


KEYS = '{"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "0123456789%s"}'


def test_a_secret_goes_in_by_stdin_and_never_comes_out(shell: Shell, tmp_path: Path) -> None:
    put = ("credentials", "put", "aws", "main", "--org", "acme", "--metadata", "bucket=b1")
    told = shell(*put, "--secret", "-", stdin=KEYS % "hunter2")
    assert "bucket=b1" in told.stdout
    file = tmp_path / "secret.json"
    file.write_text(KEYS % "hunter3")
    again = shell(*put, "--secret", str(file), "--json")
    assert json.loads(again.stdout)["version"] == 2
    broken = shell(*put, "--secret", "-", stdin=(KEYS % "hunter2")[:-2], code=2)
    wrong = shell(*put, "--secret", "-", stdin=KEYS.replace("key_id", "key_ip") % "hunter2", code=2)
    assert "did you mean 'access_key_id'?" in wrong.stderr
    listed = shell("credentials", "list", "amazon", "--org", "acme")
    assert "main" in listed.stdout
    shell("credentials", "remove", "aws", "main", "--org", "acme")
    shell("credentials", "remove", "aws", "main", "--org", "acme", code=2)
    for done in (told, again, broken, wrong, listed):
        assert "hunter" not in done.stdout + done.stderr


def test_ctrl_c_leaves_the_run_and_says_how_to_find_it(shell: Shell) -> None:
    process = subprocess.Popen(
        [*PIPELINES, "run", "acme/test/slow", "--org", "acme"],
        cwd=ROOT,
        env=shell.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = ""
    while "running" not in told:
        told += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130, out + rest
    run_id = re.findall(r"r[0-9a-f]{25}", told)[0]
    assert f"interrupted; run {run_id} goes on" in rest
    assert "Traceback" not in rest
    assert shell.json("status", run_id, "--org", "acme")["status"] == "running"
    shell("cancel", run_id, "--org", "acme")


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_sees_the_steps_move_and_no_color_means_none(shell: Shell, colour: bool) -> None:
    ours, theirs = pty.openpty()
    more = {"TERM": "xterm-256color", "COLUMNS": "100", "NO_COLOR": "" if colour else "1"}
    process = subprocess.Popen(
        [*PIPELINES, "run", "acme/test/quick", "--org", "acme"],
        cwd=ROOT,
        env={**shell.environ, **more},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    told = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
        while part := os.read(ours, 65_536):
            told += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, told
    assert (b"\x1b[" in told) is colour
    assert "✓".encode() in told or not colour
    assert b"completed" in told


@pytest.mark.parametrize("path", ["/push/step_worker", "/push/coordinator", "//push/scheduler"])
def test_push_endpoints_cannot_be_reached_from_outside(dev: Dev, path: str) -> None:
    asked = urllib.request.Request(dev.url + path, data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked, timeout=60)
    assert caught.value.code == 404
    assert json.load(caught.value)["error"] == "path_not_found"
    caught.value.close()


def test_a_second_dev_on_the_same_data_is_refused(shell: Shell, configs: Path) -> None:
    done = shell("dev", "--port", "0", code=4, more={"PIPELINES_CONFIGS": str(configs)})
    assert "another process has it open" in done.stderr


def test_a_port_that_is_taken_is_named(shell: Shell, configs: Path, tmp_path: Path) -> None:
    port = shell.dev.url.rpartition(":")[2]
    more = {"PIPELINES_CONFIGS": str(configs), "PIPELINES_DATA": str(tmp_path)}
    assert (
        f"cannot listen on 127.0.0.1:{port}"
        in shell("dev", "--port", port, code=4, more=more).stderr
    )


def test_dev_refuses_configs_with_faults_before_it_serves(tmp_path: Path, configs: Path) -> None:
    bad = tmp_path / "configs"
    for name in ("acme/test/bad.yml", "system/plans.yml"):
        (bad / name).parent.mkdir(parents=True, exist_ok=True)
    (bad / "acme/test/bad.yml").write_text(TEN_FAULTS)
    (bad / "system/plans.yml").write_text((configs / "system/plans.yml").read_text())
    done = subprocess.run(
        [*PIPELINES, "dev", "--port", "0"],
        cwd=ROOT,
        env=environ(tmp_path / "data", PIPELINES_CONFIGS=str(bad)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "bad.yml:9:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_dev_stops_cleanly_and_a_run_goes_on_at_the_next_start(
    tmp_path: Path, configs: Path, how: signal.Signals
) -> None:
    first = start(tmp_path, configs)
    shell = Shell(first)
    shell("orgs", "create", "acme")
    run_id = shell("run", "acme/test/quick", "--org", "acme", "--no-wait").stdout.strip()
    code, told = stop(first, how)
    assert code == 0, told
    assert told.splitlines()[-1] == "stopped"
    second = start(tmp_path, configs)
    again = Shell(second)
    _until(lambda: again.json("status", run_id, "--org", "acme")["status"] == "completed")
    assert stop(second)[0] == 0


def test_a_file_with_ten_faults_has_all_of_them_told(tmp_path: Path) -> None:
    file = tmp_path / "bad.yml"
    file.write_text(TEN_FAULTS)
    done = subprocess.run(
        [*PIPELINES, "validate", str(file)],
        cwd=ROOT,
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    *faults, count = done.stderr.splitlines()
    assert len(faults) >= 10, done.stderr
    for fault in faults:
        assert re.match(rf"{re.escape(str(file))}:\d+:\d+ ", fault), fault
    assert count == f"{len(faults)} faults in 1 file"
    assert "did you mean 'generic.noop'?" in done.stderr


def test_valid_files_are_counted_and_the_schema_is_the_committed_one(
    tmp_path: Path, configs: Path
) -> None:
    for arguments, said in (
        (["validate", "configs"], "no fault"),
        (["validate", str(configs), str(configs / "acme/test/slow.yml")], "4 pipelines: no fault"),
        (["validate", str(configs / "acme" / "test")], "3 pipelines: no fault"),
        (["schema", "--check", "configs/schema.json"], "is the schema of this release"),
        (["schema"], '"$schema"'),
    ):
        done = subprocess.run(
            [*PIPELINES, *arguments],
            cwd=ROOT,
            env=environ(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def _until(done: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


SUBSCRIPTIONS = """\
subscription,vendor,product,plan,category,currency,cycle,unit_price,seats,start,end,cancel_policy,prorate_start
slack,Slack,Slack,Business+,Business Applications,USD,monthly,12.50,25,2026-01-15,,refund_prorated,true

slack,Slack,Slack,Business+,Business Applications,USD,monthly,12.50,30,2026-03-01,,refund_prorated,
figma,Figma,Figma,,Developer Tools,EUR,every 6 months,450.00,1,2026-02-01,2027-02-01,,false
"""
WRONG_SUBSCRIPTIONS = """\
subscription,vendor,product,category,currency,cycle,unit_price,seats,start,end
slack,Slack,Slack,Business Applications,USD,monthly,12.50,0,2026-01-15,
zoom,Zoom,Zoom,Business Applications,USX,daily,-3,,2026-01-15,2026-01-15
wiki,Wiki,"Two
lines",Web,EUR,annual,10,five,2026-02-30,
wiki,Wiki,Wiki,Web,EUR,annual,10,5,2026-02-01,,more
"""


def test_subscriptions_are_entered_from_a_file_and_the_same_file_changes_nothing(
    shell: Shell, tmp_path: Path
) -> None:
    assert shell("subscriptions", "list", "-o", "small").stdout.startswith("small has no")
    file = tmp_path / "subscriptions.csv"
    file.write_text("\ufeff" + SUBSCRIPTIONS)
    dry = shell("subscriptions", "import", str(file), "-o", "small", "--dry-run").stdout
    assert dry.endswith("2 entered, 0 changed, 0 unchanged (dry run: nothing is stored)\n")
    assert re.search(r"slack +version +2026-03-01 +seats 25 → 30\n", dry), dry
    told = shell("subscriptions", "import", str(file), "-o", "small").stdout
    assert told.endswith("2 entered, 0 changed, 0 unchanged\n")
    again = shell("subscriptions", "import", str(file), "-o", "small").stdout
    assert again == "0 entered, 0 changed, 2 unchanged\n"

    same = tmp_path / "subscriptions.yml"
    same.write_text(
        "versions:\n"
        "  - subscription: slack\n    vendor: Slack\n    product: Slack\n    plan: Business+\n"
        "    category: Business Applications\n    currency: USD\n    cycle: monthly\n"
        "    cancel_policy: refund_prorated\n"
        '    unit_price: "13.00"\n    seats: 30\n    start: 2026-05-01\n'
    )
    told = shell("subscriptions", "import", str(same), "-o", "small").stdout
    assert re.search(r"slack +version +2026-05-01 +unit_price 12.50 → 13.00\n", told), told
    same.write_text(same.read_text().replace("05-01", "02-01"))
    between = shell("subscriptions", "import", str(same), "-o", "small").stdout
    assert re.search(
        r"slack +version +2026-02-01 +unit_price 12.50 → 13.00, seats 25 → 30", between
    )
    same.write_text(same.read_text().replace("02-01", "01-15"))
    refused = shell("subscriptions", "import", str(same), "-o", "small", code=2).stderr
    assert f"{same}:12:12 start 2026-01-15 has a version with another unit_price, seats" in refused

    listed = shell("subscriptions", "list", "-o", "small").stdout
    assert re.search(r"figma +Figma +450.00 EUR +1 +every 6 months +2026-02-01 +2027-02-01", listed)
    assert re.search(r"slack +Slack Business\+ +13.00 USD +30 +monthly +2026-05-01 +–", listed)


def test_a_subscription_is_shown_ended_refunded_and_voided(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "subscriptions.csv"
    file.write_text(SUBSCRIPTIONS)
    shell("subscriptions", "import", str(file), "-o", "acme")
    ended = shell("subscriptions", "end", "slack", "2026-06-01", "-o", "acme").stdout
    assert re.search(r"2026-03-01 +2026-06-01", ended), ended
    given = ("refund", "slack", "CN-7", "20.00", "2026-04-01", "--reason", "outage")
    told = shell("subscriptions", *given, "-o", "acme").stdout
    assert re.search(r"CN-7 +2026-04-01 +20.00 +outage", told), told
    history = shell("subscriptions", "show", "slack", "--history", "-o", "acme").stdout
    assert re.search(r"3 +\S+ \S+ +refunded +platform\n +2 .* ended .*\n +1 .* entered", history)
    shell("subscriptions", "void", "slack", "-o", "acme")
    assert re.search(r"slack +void", shell("subscriptions", "list", "-o", "acme").stdout)
    assert shell.json("subscriptions", "show", "slack", "-o", "acme")["versions"] == []


def test_every_fault_of_a_file_of_subscriptions_is_told_with_its_line(
    shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text(WRONG_SUBSCRIPTIONS)
    told = shell("subscriptions", "import", str(file), "-o", "acme", code=2).stderr
    assert f"{file}:6 has 11 cells, the header 10" in told
    file.write_text(WRONG_SUBSCRIPTIONS.replace(",,more", ""))
    told = shell("subscriptions", "import", str(file), "-o", "acme", code=2).stderr
    for line, field in (
        (2, "seats must be at least 1"),
        (3, "currency is no currency of ISO 4217 (did you mean"),
        (3, "cycle must match"),
        (3, "unit_price must match"),
        (3, "seats is missing"),
        (3, "end must be after the start, 2026-01-15"),
        (4, "seats must be a whole number, not a text"),
        (4, "start must be a day like"),
    ):
        assert f"{file}:{line} {field}" in told, told
    assert "nothing was entered: the file has 8 faults" in told
    missing = shell("subscriptions", "import", str(tmp_path / "no.csv"), "-o", "acme", code=2)
    assert "cannot be read" in missing.stderr
    (tmp_path / "x.txt").write_text("")
    odd = shell("subscriptions", "import", str(tmp_path / "x.txt"), "-o", "acme", code=2)
    assert "is neither .csv nor .yml" in odd.stderr
