"""Does what the README says under "Your own domain", to the letter, with a given installation."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from core.cosmos.client import open_cosmos
from core.mappings import Mappings
from core.settings import Settings

README = Path(__file__).parents[2] / "README.md"


def section() -> str:
    text = README.read_text()
    return text[text.index("## Your own domain") : text.index("## Phases")]


def block(language: str) -> str:
    """Return the one code block of this language in the section."""
    [code] = re.findall(rf"```{language}\n(.*?)```", section(), re.DOTALL)
    return str(code)


def follow(binaries: Path, directory: Path) -> dict[str, Any]:
    """Run the section's commands in an empty directory; return the document that arrived in Cosmos DB."""
    (directory / "customers.py").write_text(block("python"))
    environment = {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "HOME": str(directory)}
    # The last line keeps the background processes until somebody has looked at Cosmos DB.
    script = f"set -e\n{block('sh')}\necho ready\nread line\n"
    with (
        (directory / "stderr").open("w") as errors,
        subprocess.Popen(
            ["bash", "-c", script],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as shell,
    ):
        try:
            assert shell.stdout is not None
            lines = []
            for line in shell.stdout:
                lines.append(line)
                if line == "ready\n":
                    break
            else:
                msg = f"the README's commands failed:\n{''.join(lines)}\n{(directory / 'stderr').read_text()}"
                raise AssertionError(msg)
            return asyncio.run(_wait_for_ada(directory))
        finally:
            os.killpg(shell.pid, signal.SIGTERM)


async def _wait_for_ada(directory: Path) -> dict[str, Any]:
    values = dict(line.split("=", 1) for line in (directory / "settings.env").read_text().split())
    settings = Settings.load(
        cosmos_endpoint=values["CROSSFEED_COSMOS_ENDPOINT"].strip("'"),
        cosmos_key=values["CROSSFEED_COSMOS_KEY"].strip("'"),
    )
    namespace: dict[str, Any] = {"__name__": "customers"}
    exec(compile((directory / "customers.py").read_text(), "customers.py", "exec"), namespace)
    [mapping] = Mappings(namespace["MAPPINGS"])
    async with open_cosmos(settings) as store:
        for _ in range(200):
            found = [
                document
                async for document in store.container(mapping).query_items(
                    "SELECT * FROM c WHERE c.name = 'Ada Lovelace'"
                )
            ]
            if found:
                return dict(found[0])
            await asyncio.sleep(0.05)
    msg = f"Ada did not arrive:\n{(directory / 'stderr').read_text()}"
    raise AssertionError(msg)
