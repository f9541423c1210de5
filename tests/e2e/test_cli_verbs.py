"""All verbs are of one kind: help, exit codes from one table, JSON for scripts, completion, a next step after."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.main import get_command

from core.errors import (
    ConfigurationError,
    ConflictError,
    HistoryLostError,
    OutcomeUnknownError,
    PrimaryMovedError,
    SchemaError,
    StoreUnavailableError,
)
from functions.cli import app, verbs
from functions.cli.completion import Shell
from functions.cli.exit_codes import EVERY, VERBS, Codes, ExitCode, code_of
from functions.cli.next_steps import next_step

if TYPE_CHECKING:
    from core.errors import CrossfeedError
    from tests.e2e.conftest import Run

NAMES = [name for name, _ in verbs()]
ROOT = Path(__file__).parents[2]
COMMAND = get_command(app)
NO_COMMANDS = {"write lease": "a task's name", "embedded": "a thread's name"}
GROUPS = {name.split()[0] for name in NAMES if " " in name}
WITHOUT_JSON = {
    "relay": "runs until it is stopped; what it says is its log, which is JSON in a pipe",
    "mirror": "as the relay",
    "completion": "prints a script for a shell",
}


def test_every_verb_has_a_row_in_the_table_of_exit_codes_and_no_row_is_left_over() -> None:
    assert sorted(VERBS) == sorted(NAMES)


def test_every_verb_says_in_its_help_what_its_exit_codes_mean(run: Run) -> None:
    for name in NAMES:
        code, output, errors = run(*name.split(), "--help")
        assert (code, errors) == (0, ""), name
        assert squeezed(VERBS[name].text()) in squeezed(output), name
        assert output.count("Exit codes:") == 1, name


def test_the_whole_says_what_they_mean_in_general(run: Run) -> None:
    assert squeezed(EVERY.text()) in squeezed(run("--help")[1])


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_every_verb_prints_json_if_a_script_asks() -> None:
    assert {name for name in NAMES if "--json" not in options_of(name)} == WITHOUT_JSON.keys()


def options_of(name: str) -> set[str]:
    found = COMMAND
    for word in name.split():
        found = found.commands[word]  # type: ignore[attr-defined]
    return {option for parameter in found.params for option in parameter.opts}


NAMED = re.compile(r"(?:[:;,`] |`|^|\()crossfeed ([a-z][a-z-]*(?: [a-z][a-z-]*)*)((?: (?:--[a-z-]+|[A-Z]+))*)")
"""A command in a message or a docstring, up to its first argument that is a value."""


def named_commands() -> list[tuple[Path, str, str]]:
    return [
        (path, match[1], match[2])
        for package in ("core", "outbox", "changefeed", "functions", "migrations")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in NAMED.finditer(" ".join(node.value.split("\n")))
    ]


def test_every_command_that_a_message_names_exists() -> None:
    options = {name: options_of(name) for name in NAMES}
    found = named_commands()
    wrong = []
    for path, words, rest in found:
        names = [name for name in NAMES if f"{words} ".startswith(f"{name} ")]
        name = max(names, key=len, default=None)
        if name is None and words not in NO_COMMANDS and words.split()[0] not in GROUPS:
            wrong.append((path, words))
        elif name is not None and not set(re.findall(r"--[a-z-]+", rest)) <= options[name]:
            wrong.append((path, words + rest))
    assert wrong == []
    assert len(found) > 100


def test_the_codes_are_what_the_table_says(run: Run) -> None:
    assert run("settings")[0] == ExitCode.DONE
    assert run("phase", "cancel")[0] == ExitCode.FAILED
    assert run("phase", "status", postgres_dsn=None)[0] == ExitCode.WRONG
    assert run("dead-letters", "show", "1")[0] == ExitCode.FAILED
    assert run("completion", "csh")[0] == ExitCode.WRONG
    assert run("phase", "plan", "sideways")[0] == ExitCode.WRONG
    assert code_of(SchemaError("older")) is ExitCode.WRONG
    assert code_of(StoreUnavailableError("away")) is ExitCode.FAILED
    assert Codes("a", "b", "c", "").text() == "Exit codes: 0 a; 1 b; 2 c."


@pytest.mark.parametrize(
    ("error", "verb", "said"),
    [
        (ConfigurationError("wrong"), "relay", "crossfeed doctor "),
        (StoreUnavailableError("away"), "validate", "crossfeed doctor "),
        (HistoryLostError("lost"), "outbox", "crossfeed outbox resync --dry-run "),
        (OutcomeUnknownError("unanswered"), "erase", "run the same command again"),
        (PrimaryMovedError("moved"), "repair", "crossfeed phase status "),
        (ConflictError("another one"), "backfill", None),
        (ConfigurationError("wrong"), "local", None),
        (ConfigurationError("wrong"), "demo", None),
    ],
)
def test_an_error_names_the_next_step(error: CrossfeedError, verb: str, said: str | None) -> None:
    found = next_step(error, verb)
    assert found == said if said is None else str(found).startswith(said)


def test_the_next_step_is_a_line_of_its_own_on_stderr(run: Run) -> None:
    code, output, errors = run("relay", postgres_dsn=None)
    assert (code, output) == (2, "")
    assert [line.partition(":")[0] for line in errors.splitlines()] == ["error", "next"]


def test_a_verb_that_is_misspelled_is_guessed(run: Run) -> None:
    code, _, errors = run("phse", "status")
    assert code == 2
    assert "Did you mean 'phase'?" in errors


def test_migrate_and_settings_answer_in_json(run: Run) -> None:
    code, output, _ = run("migrate", "--json")
    assert (code, json.loads(output)) == (
        0,
        {"revision": "0001", "phase": "cosmos_only", "epoch": 1, "state": "steady"},
    )
    code, output, _ = run("settings", "--json")
    found = {one["variable"]: one for one in json.loads(output)["settings"]}
    dsn, database = found["CROSSFEED_POSTGRES_DSN"], found["CROSSFEED_COSMOS_DATABASE"]
    assert (dsn["is_secret"], dsn["is_set"], dsn["value"]) == (True, True, "(set, and not shown)")
    assert database["value"].startswith("test_")
    assert found["CROSSFEED_LOG_LEVEL"]["is_set"] is False


def test_settings_show_no_secret(run: Run) -> None:
    for options in ([], ["--json"], ["--markdown"]):
        wrong_place = "AccountEndpoint=https://a.documents.azure.com/;AccountKey=aHVudGVyMg=="
        code, output, errors = run(
            "settings",
            *options,
            cosmos_key="aHVudGVyMg==",
            cosmos_endpoint=wrong_place,
            postgres_dsn="postgresql://a:b@c/d",
        )
        assert (code, errors) == (0, "")
        assert "aHVudGVyMg" not in output
        assert "a:b@c" not in output


def test_there_is_a_script_for_every_shell_that_asks_the_command_itself(run: Run) -> None:
    for shell in Shell:
        code, output, _ = run("completion", shell.value)
        assert code == 0
        assert f"_CROSSFEED_COMPLETE=complete_{shell.value}" in output


def test_bash_completes_a_verb(tmp_path: Path, run: Run) -> None:
    script = run("completion", "bash")[1]
    program = tmp_path / "crossfeed"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from functions.cli import main; main()' \"$@\"\n")
    program.chmod(0o755)
    asking = (
        f"{script}\nCOMP_WORDS=(crossfeed phase ad) COMP_CWORD=2\n_crossfeed_completion crossfeed\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = shutil.which("bash")
    assert bash is not None
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([bash, "-c", asking], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout.split(), done.stderr) == (["advance"], "")


@pytest.mark.parametrize(
    ("shell", "expected"),
    [("zsh", r'"doctor":"Look at everything, change nothing'), ("fish", r"doctor\tLook at everything, change nothing")],
)
def test_zsh_and_fish_are_told_verbs_with_their_descriptions(
    monkeypatch: pytest.MonkeyPatch, run: Run, shell: str, expected: str
) -> None:
    monkeypatch.setenv("_CROSSFEED_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "crossfeed doc")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    code, output, _ = run()
    assert code == 0
    assert re.search(expected, output), output
