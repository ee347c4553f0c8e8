from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.core import yaml
from shared.core.places import UNREAD
from shared.core.yaml import MAX_BYTES, MAX_DEPTH, Source, read


def faults(text: str | bytes) -> list[str]:
    raw = text.encode() if isinstance(text, str) else text
    return [str(fault) for fault in read("f.yml", raw).faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("010", 10),
        ("-010", -10),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("2026-01-31", "2026-01-31"),
        ("=", "="),
        ("<<", "<<"),
        ("True", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("~", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("+5", 5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1e", "1e"),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("'on'", "on"),
        ('"12"', "12"),
        ("'~'", "~"),
        ("9223372036854775807", 9223372036854775807),
        ("0000000000000000000000001", 1),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: Any) -> None:
    source = read("f.yml", f"a: {text}\n".encode())
    assert source.faults == []
    assert source.value == {"a": value}
    assert type(source.value["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9223372036854775808", "the number does not fit in 64 bits; quote it if it is a text"),
        ("9" * 5000, "the number does not fit in 64 bits; quote it if it is a text"),
        ("0x" + "f" * 5000, "the number does not fit in 64 bits; quote it if it is a text"),
        ("1e999", "the number is too large; quote it if it is a text"),
        (".inf", "the number is not finite; quote it if it is a text"),
        ("-.Inf", "the number is not finite; quote it if it is a text"),
        (".nan", "the number is not finite; quote it if it is a text"),
    ],
)
def test_a_number_that_json_cannot_say_is_a_fault(text: str, message: str) -> None:
    assert faults(f"a: {text}") == [f"f.yml:1:4 {message}"]


def test_every_value_and_every_key_knows_its_place() -> None:
    source = read("f.yml", b"a:\n  - b: 1\n    c: [x, 'y']\n")
    assert source.at(()) == "f.yml:1:1"
    assert source.at(("a", 0, "b")) == "f.yml:2:8"
    assert source.at(("a", 0, "b"), key=True) == "f.yml:2:5"
    assert source.at(("a", 0, "c", 1)) == "f.yml:3:12"
    assert source.at(("a", 0, "missing")) == "f.yml:2:5"


def test_columns_count_characters_not_bytes() -> None:
    assert read("f.yml", "é: {ü: 1, ß: 2}".encode()).at(("é", "ß")) == "f.yml:1:14"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\na: 2", "f.yml:2:1 the key 'a' is given twice (first in line 1)"),
        ("a: {b: 1, b: 2}", "f.yml:1:11 the key 'b' is given twice (first in line 1)"),
        ("a: &x 1", "f.yml:1:4 the anchor &x is not allowed"),
        ("a: !!str 1", "f.yml:1:4 the tag '!!str' is not allowed"),
        ("a: !mine {}", "f.yml:1:4 the tag '!mine' is not allowed"),
        ("a: ! 1", "f.yml:1:4 the tag '!' is not allowed"),
        ("a: 1\n---\nb: 2", "f.yml:2:1 a second document begins here: a file holds one"),
        ("%YAML 1.1\n---\na: 1", "f.yml:1:1 a %directive is not allowed"),
        ("1: a", "f.yml:1:1 the key 1 must be quoted to be a text"),
        ("true: a", "f.yml:1:1 the key true must be quoted to be a text"),
        ("~: a", "f.yml:1:1 the key null must be quoted to be a text"),
        (
            "? [a]\n: b",
            'f.yml:1:3 a key must be a text (a template must be quoted: "{name}")',
        ),
        (
            "a: {{ b }}",
            'f.yml:1:5 a key must be a text (a template must be quoted: "{name}")',
        ),
        (
            "a: {b}_c",
            'f.yml:1:7 text after a closing brace: a template must be quoted: "{name}…"',
        ),
        ("a:\n\tb: 1", "f.yml:2:1 a tab in the indentation: use spaces"),
        ("a:\n  b: 1\n \tc: 1", "f.yml:3:2 a tab in the indentation: use spaces"),
        ("a: @daily", "f.yml:1:4 a text that begins with @ must be quoted"),
        ("a: */5 * * * *", "f.yml:1:4 a text that begins with * or & must be quoted"),
        ("a: 'b", "f.yml:1:4 the quote that opens here is never closed"),
        ("a: b: c", "f.yml:1:5 ': ' inside a value: quote the value, or mend the indentation"),
        ("", "f.yml:1:1 the file is empty"),
        ("# nothing\n", "f.yml:1:1 the file is empty"),
        ("---\n", "f.yml:1:1 the file is empty"),
        ("a: \x01", "f.yml:1:4 the character U+0001 is not allowed"),
        (b"a: 1\nb: \xff", "f.yml:2:4 is not UTF-8 (byte 0xff)"),
        ("a: 1".encode("utf-16"), "f.yml:1:1 is not UTF-8 (byte 0xff)"),
        (b"a: " + b"x" * MAX_BYTES, "f.yml:1:1 the file is larger than 512 KiB"),
        ("[" * 5000, f"f.yml:1:{MAX_DEPTH + 1} is nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_a_file_must_not_hold_is_a_fault_at_its_place(text: str | bytes, fault: str) -> None:
    assert faults(text) == [fault]


def test_an_alias_is_a_fault_and_leaves_a_value_that_nobody_reports_again() -> None:
    source = read("f.yml", b"a: &x 1\nb: *x\n")
    assert [str(fault) for fault in source.faults] == [
        "f.yml:1:4 the anchor &x is not allowed",
        "f.yml:2:4 the alias *x is not allowed: write it out",
    ]
    assert source.value == {"a": 1, "b": UNREAD}


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault() -> None:
    source = read("f.yml", b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert (source.value, source.faults) == ({"a": 1, "b": 2}, [])
    assert source.at(("b",)) == "f.yml:2:4"


def test_a_file_of_faults_is_not_reported_without_end() -> None:
    assert len(faults("a: 1\n" * 10_000)) == 100


def test_ten_megabytes_are_refused_before_they_are_read() -> None:
    assert faults(b"[" * 10_000_000) == ["f.yml:1:1 the file is larger than 512 KiB"]


def test_the_parser_in_pure_python_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # A platform without libyaml has no CSafeLoader.
    text = b"a: [1, on, '2', {b: ~}]\nc: |\n  text\nd: !x 1\na: 2\n"
    fast = read("f.yml", text)

    class Slow:
        from yaml import SafeLoader

    slow = Source("f.yml")
    composer = yaml._Composer(slow)
    for event in yaml._events(Slow, text.decode()):
        composer.take(event)
    slow.value = composer.result
    assert (slow.value, slow.values, slow.keys, slow.faults) == (
        fast.value,
        fast.values,
        fast.keys,
        fast.faults,
    )


@given(st.binary(max_size=200) | st.text("[]{}:,-?*&!|>'\"%@`#~ \t\nab0.", max_size=60))
@example(b"\x00")
@example("a: |\n\n  \tx")
def test_any_bytes_are_read_or_have_a_fault_with_a_place(text: str | bytes) -> None:
    source = read("f.yml", text.encode() if isinstance(text, str) else text)
    assert source.faults or source.value is not UNREAD
    for fault in source.faults:
        name, line, column = fault.where.split(":")
        assert name == "f.yml"
        assert int(line) >= 1
        assert int(column) >= 1
