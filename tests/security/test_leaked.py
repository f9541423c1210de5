"""The scan finds secrets, whatever file they are in, and lets pass only what is listed with a reason."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from tests.security.leaked import LISTED, ROOT, FalseAlarm, alarms, committed, listed, scan
from tests.security.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

_KEY = b64encode(bytes(range(100, 164))).decode()
# In two parts, so that this file holds none.
PLANTED = {
    "settings.env": "CROSSFEED_POSTGRES_DSN=postgresql://app:kY8" + "vQ2xLm@db.example.test/app\n",
    "main.bicep": f"param accountKey string = '{_KEY}'\n",
    "deploy/key.pem": "-----BEGIN " + "PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
    "notes.md": "aws_access_key_id = AKIA" + "Q3EGRIFJX5QN7PLK\n",
}


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    for name, text in PLANTED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "code.py").write_text("def password() -> str: ...\n")
    return tmp_path


def test_every_planted_secret_is_found_and_none_is_shown(planted: Path) -> None:
    found = scan(planted, committed(planted), [])
    assert found.verdict is Verdict.FOUND
    assert {line.partition(":")[0] for line in found.lines} == set(PLANTED)
    said = "\n".join(found.lines)
    assert not any(part in said for part in ("kY8" + "vQ2xLm", _KEY, "MIIB", "Q3EGRIFJX5QN7PLK"))


def test_what_is_listed_passes_and_what_is_listed_in_vain_does_not(planted: Path) -> None:
    known = [FalseAlarm(alarm.path, "planted", (alarm.sha1,)) for alarm in alarms(planted, committed(planted))]
    assert scan(planted, committed(planted), known).verdict is Verdict.CLEAN
    (planted / "notes.md").write_text("nothing\n")
    [line] = scan(planted, committed(planted), known).lines
    assert line.startswith("notes.md: the false alarm")


def test_a_listed_hash_covers_no_other_secret_of_its_file(planted: Path) -> None:
    known = [FalseAlarm("*", "planted", tuple(alarm.sha1 for alarm in alarms(planted, committed(planted))))]
    (planted / "notes.md").write_text(PLANTED["notes.md"] + PLANTED["notes.md"].replace("Q3EG", "R4FH"))
    [line] = scan(planted, committed(planted), known).lines
    assert line.startswith("notes.md:2: AWS Access Key")


def test_a_false_alarm_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="needs path= and why="):
        listed('[[false_alarm]]\npath = "a"\n')


def test_the_projects_own_list_has_reasons_and_its_files_are_known() -> None:
    assert listed(LISTED.read_text())
    assert {"pyproject.toml", "README.md", "core/settings.py"} <= set(committed(ROOT))
