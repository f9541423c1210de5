"""A worker process: the real worker library of Azure Functions, over its own entry points, by JSON lines on stdio.

Where the library does not run (it needs Python 3.13) the same functions are indexed by azure-functions alone and called
as they are: what is not tested then is the library, not the handlers.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import sys
from types import SimpleNamespace
from typing import Any, Protocol

from tests.functions.messages import plain, request, typed

_LIBRARY = "azure_functions_runtime"
library: Any = importlib.import_module(_LIBRARY) if importlib.util.find_spec(_LIBRARY) else None


class Worker(Protocol):
    async def start(self, directory: str) -> dict[str, Any]: ...

    async def invoke(self, message: dict[str, Any]) -> dict[str, Any]: ...


class LibraryWorker:
    """Hands everything to azure-functions-runtime."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    async def start(self, directory: str) -> dict[str, Any]:
        library.start_threadpool_executor()
        asked = SimpleNamespace(capabilities={}, function_app_directory=directory)
        init = await library.worker_init_request(request(worker_init_request=asked))
        metadata = await library.functions_metadata_request(request())
        functions = metadata.function_metadata_results or []
        self._ids = {function.name: function.function_id for function in functions}
        for function_id in self._ids.values():
            await library.function_load_request(request(function_load_request=SimpleNamespace(function_id=function_id)))
        return {"library": True, "init": plain(init.result), "functions": [_summary(item) for item in plain(functions)]}

    async def invoke(self, message: dict[str, Any]) -> dict[str, Any]:
        binding = SimpleNamespace(name=message["argument"], data=typed(message["data"]), WhichOneof=lambda _: "data")
        invocation = SimpleNamespace(
            invocation_id=str(message["id"]),
            function_id=self._ids[message["function"]],
            trigger_metadata={},
            input_data=[binding],
            trace_context=SimpleNamespace(trace_parent="", trace_state="", attributes={}),
            retry_context=SimpleNamespace(retry_count=message["attempt"], max_retry_count=-1, exception=None),
        )
        answer: dict[str, Any] = plain(await library.invocation_request(request(invocation_request=invocation)))
        return answer


class PlainWorker:
    """Indexes by azure-functions alone, and calls what it finds."""

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}

    async def start(self, directory: str) -> dict[str, Any]:
        try:
            import function_app  # noqa: PLC0415 - what is tested
        except Exception as error:  # noqa: BLE001 - as the library does
            failure = {"status": 0, "exception": {"message": f"{type(error).__name__}: {error}"}}
            return {"library": False, "init": failure, "functions": []}
        self._functions = {str(item.get_function_name()): item for item in function_app.app.get_functions()}
        summaries = []
        for name, item in self._functions.items():
            retry = item.get_settings_dict("retry_policy")
            if retry is not None:
                retry.pop("setting_name", None)
            summaries.append({"name": name, "bindings": [*map(json.loads, item.get_raw_bindings())], "retry": retry})
        return {"library": False, "init": {"status": 1}, "functions": summaries}

    async def invoke(self, message: dict[str, Any]) -> dict[str, Any]:
        import azure.functions as func  # noqa: PLC0415 - not where the library is

        handler = self._functions[message["function"]].get_user_function()
        data: dict[str, Any] = message["data"]
        arguments: dict[str, Any] = {}
        if "http" in data:
            http = data["http"]
            arguments[message["argument"]] = func.HttpRequest(
                method=http["method"],
                url=http["url"],
                params=http.get("query", {}),
                body=http.get("body", "").encode(),
            )
        elif message["argument"] == "timer":
            arguments["timer"] = SimpleNamespace(past_due=json.loads(data["json"])["IsPastDue"])
        else:
            arguments[message["argument"]] = data["json"]
            arguments["context"] = SimpleNamespace(retry_context=SimpleNamespace(retry_count=message["attempt"]))
        try:
            answer = await handler(**arguments)
        except Exception as error:  # noqa: BLE001 - as the library does
            return {"result": {"status": 0, "exception": {"message": f"{type(error).__name__}: {error}"}}}
        if answer is None:
            return {"result": {"status": 1}}
        http = {"status_code": str(answer.status_code), "body": {"bytes": answer.get_body().decode()}}
        return {"result": {"status": 1}, "return_value": {"http": http}}


def new_worker() -> Worker:
    """Return the library's if it runs here."""
    return PlainWorker() if library is None else LibraryWorker()


async def started(directory: str) -> dict[str, Any]:
    """Index the app in this process; return what the worker says of it."""
    hello = await new_worker().start(directory)
    if library is not None:
        library.stop_threadpool_executor()
    return hello


def _summary(function: dict[str, Any]) -> dict[str, Any]:
    """Return what both workers can say of a function."""
    options = function.get("retry_options")
    retry = None
    if options is not None:
        retry = {
            "strategy": options["retry_strategy"],
            "max_retry_count": str(options["max_retry_count"]),
            "minimum_interval": options["minimum_interval"].rjust(8, "0"),
            "maximum_interval": options["maximum_interval"].rjust(8, "0"),
        }
    return {"name": function["name"], "bindings": [*map(json.loads, function["raw_bindings"])], "retry": retry}


def _elsewhere(directory: str) -> list[str]:
    """Return the modules of ours that were not found in the directory."""
    ours = {"core", "changefeed", "functions", "function_app", "migrations", "outbox"}
    found = {name: module.__file__ or "" for name, module in sys.modules.items() if name.partition(".")[0] in ours}
    return [name for name, path in found.items() if not path.startswith(directory)]


async def main(directory: str) -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the app prints must not be taken for an answer
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    sys.path.insert(0, directory)
    os.chdir(directory)
    worker = new_worker()
    hello = await worker.start(directory)
    out.write(json.dumps({**hello, "elsewhere": _elsewhere(directory)}) + "\n")
    lines = asyncio.StreamReader(limit=1 << 30)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async def answer(message: dict[str, Any]) -> None:
        out.write(json.dumps({"id": message["id"], "answer": await worker.invoke(message)}) + "\n")

    running = set()
    while line := await lines.readline():
        task = asyncio.create_task(answer(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
