"""The demo's options: documents and combinations that cannot be are named before anything starts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Run

DOCUMENTS = [
    ('{"id": "a", "k": "x"}', None),
    ('{"k": "x"}', "has no id"),
    ('{"id": "a", "k": "x", "other": 1}', "has the same partition key and id as document 0"),
    ('{"id": "b"}', "has no partition key at /k"),
    ('{"id": "c", "k": "x", "t": ["a\\u0000b"]}', "at $.t[0]: a NUL character"),
    ('{"id": "d", "k": "x", "t": "' + "y" * 2**21 + '"}', "Cosmos DB takes 2 MB"),
    ('{"id": "e/f", "k": "x"}', "the id holds '/'"),
    ('{"id": 7, "k": "x"}', "the id must be a string"),
    ('{"id": "n", "k": "x", "n": [12345678901234567890123]}', "at $.n[0]: a number that a JSON double cannot hold"),
    ('{"id": "m", "k": "x", "n": 0.12345678901234567890}', "at $.n: a number that a JSON double cannot hold"),
    ('{"id": "o", "k": NaN}', "at $.k: a number that a JSON double cannot hold"),
    ("5", "is not a JSON object"),
    ('{"id": "p", "k": null}', "has a partition key of null"),
    ('{"id": "q", "k": "x", "ttl": 5}', "has ttl 5"),
    ('{"id": "", "k": "x"}', "the id is empty"),
    ('{"id": "a", "k": "y", "_ts": 12345678901234567890123}', None),
]


def test_documents_that_cannot_be_carried_are_all_named_before_anything_starts(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("[" + ",\n".join(text for text, _ in DOCUMENTS) + "]")
    code, output, errors = run("demo", "--documents", str(file), "--container", "Mine", "--partition-key", "/k")
    assert (code, output) == (2, "")
    named = dict(re.findall(r"document (\d+): (.*?)(?=; document \d+:|$)", errors.strip()))
    assert [int(index) for index in named] == [index for index, (_, said) in enumerate(DOCUMENTS) if said is not None]
    for index, (_, said) in enumerate(DOCUMENTS):
        assert said is None or said in named[str(index)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"id": "a"}', "not a JSON array"),
        (b'[{"id": ', "not JSON"),
        (b"[]", "is empty"),
        (b'["\xe9"]', "not UTF-8"),
        (b"[" * 200_000, "too deep"),
    ],
    ids=["an object", "malformed", "empty", "latin-1", "nested"],
)
def test_a_file_that_is_no_array_of_documents_is_refused(run: Run, tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    code, output, errors = run("demo", "--documents", str(file), "--container", "Mine", "--partition-key", "/k")
    assert (code, output) == (2, "")
    assert said in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["--documents", __file__],
        ["--container", "Mine"],
        ["--documents", "/nowhere.json", "--container", "Mine", "--partition-key", "/k"],
        ["--documents", __file__, "--container", "Mine", "--partition-key", "k"],
        ["--seconds", "0"],
        ["--export", f"{__file__}/below"],
    ],
)
def test_options_that_do_not_go_together_are_refused(run: Run, arguments: list[str]) -> None:
    assert run("demo", *arguments)[0] == 2
