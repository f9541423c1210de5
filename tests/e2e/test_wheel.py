"""The wheel is all that a user needs: in an empty environment the README's commands run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import quickstart

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_the_wheel_runs_the_readme_in_an_empty_environment(tmp_path: Path) -> None:
    run("build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    [wheel] = tmp_path.glob("*.whl")
    environment = tmp_path / "venv"
    run("venv", "--without-pip", str(environment))
    # The lock's versions, so that the same thing is tested today and tomorrow.
    constraints = tmp_path / "constraints.txt"
    pins = [
        line.split()[0] + marker(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    ]
    constraints.write_text("\n".join(pins))
    options = ("--quiet", "--no-compile", "--constraint", str(constraints))
    python = environment / "bin" / "python"
    run("pip", "--python", str(python), "install", *options, f"crossfeed[local] @ {wheel.as_uri()}")
    work = tmp_path / "work"
    work.mkdir()
    ada = quickstart.follow(environment / "bin", work)
    assert (ada["id"], ada["name"]) == ("c1", "Ada Lovelace")
    envelope = ada["crossfeed"]
    assert (envelope["epoch"], envelope["version"], envelope["origin"]) == (2, 2, "postgres")


def marker(line: str) -> str:
    """Return the environment marker of a line of the lock, if it has one."""
    _, semicolon, condition = line.partition(";")
    return f" ; {condition.strip().rstrip(chr(92)).strip()}" if semicolon else ""


def run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
