"""The wheel is all that a user needs: in an empty environment the README's commands run."""

from __future__ import annotations

import hashlib
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
    run("uv", "venv", "--quiet", "--no-project", "--python", sys.executable, str(environment))
    install(wheel, environment)
    work = tmp_path / "work"
    work.mkdir()
    ada = quickstart.follow(environment / "bin", work)
    assert (ada["id"], ada["name"]) == ("c1", "Ada Lovelace")
    envelope = ada["crossfeed"]
    assert (envelope["epoch"], envelope["version"], envelope["origin"]) == (2, 2, "postgres")


def install(wheel: Path, environment: Path) -> None:
    """Install what the wheel asks for, in the lock's versions: the same thing is tested today and tomorrow."""
    wanted = wheel.with_name("wanted.txt")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wanted.write_text(f"crossfeed[local] @ {wheel.as_uri()} --hash=sha256:{digest}\n")
    python, lock = environment / "bin" / "python", ROOT / "requirements.lock"
    chosen = ("--constraint", str(lock), "--requirement", str(wanted))
    run("uv", "pip", "install", "--quiet", "--python", str(python), "--require-hashes", *chosen)


def run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
