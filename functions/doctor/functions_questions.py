"""What is asked of an Azure Functions app: its host.json, and what the host reads by itself, past our settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from core.settings_reference import reference
from functions.doctor.findings import Examined, Finding, Level, answer, skipped
from functions.triggers import APP_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.doctor.patient import Surroundings

RUNTIME: Final = "FUNCTIONS_WORKER_RUNTIME"
"""Set in every Functions app: where it is, the app in the folder is looked at."""
_BUNDLE: Final = "[4.*, 5.0.0)"
_FIELDS: Final = (5, 6)
"""How many fields an NCRONTAB expression has, without and with seconds."""
_STORAGE: Final = ("AzureWebJobsStorage", "AzureWebJobsStorage__accountName", "AzureWebJobsStorage__blobServiceUri")
_CONNECTION: Final = ("COSMOS", "COSMOS__accountEndpoint")


def app_of(environment: Mapping[str, str]) -> Path | None:
    """Return the folder of the Functions app that this process belongs to, None where it belongs to none."""
    if RUNTIME not in environment:
        return None
    return Path(environment.get("AzureWebJobsScriptRoot", "."))


def ask_functions(around: Surroundings) -> Examined:
    """Whether the app in the folder would be indexed, and its triggers run."""
    if around.app is None:
        return skipped("functions", "this is no Functions app; where there is one: crossfeed doctor --functions DIR")
    values = {**_local_values(around), **around.environment}
    findings = [*_of_host_json(around), *_of_app_settings(values), *_of_connections(values)]
    return answer("functions", findings, "host.json and the application settings are complete")


def _of_host_json(around: Surroundings) -> list[Finding]:
    file = f"{around.app}/host.json"
    host = _read_json(around, "host.json")
    if host is None:
        cure = "copy host.json of this project, and deploy the folder that holds it beside function_app.py"
        return [Finding("is missing, or is no JSON object", file, "the host does not start", cure)]
    findings = []
    if "[4." not in str(_at(host, "extensionBundle", "version")):
        why = "other versions of the Cosmos DB trigger lose a batch at which a function fails"
        findings.append(Finding("no extension bundle 4", file, why, f'set extensionBundle.version to "{_BUNDLE}"'))
    if _at(host, "extensions", "cosmosDB", "serializerSettings", "dateParseHandling") != "None":
        where = f"{file}, extensions.cosmosDB.serializerSettings"
        why = "the host respells dates, so every document that holds one is read again by key: that costs request units"
        findings.append(Finding("dates are rewritten", where, why, 'set dateParseHandling to "None"', Level.WARNING))
    if _at(host, "functionTimeout") is None:
        why = "the plan's default ends a batch or a reconcile round that takes longer"
        cure = 'set functionTimeout to "00:10:00"'
        findings.append(Finding("no functionTimeout", file, why, cure, Level.WARNING))
    if "retry" in host:
        why = "it counts for no function any more, and a limit there would lose batches"
        findings.append(Finding("a retry policy for all", file, why, "remove it: each trigger has its own"))
    return findings


def _of_app_settings(values: Mapping[str, str]) -> list[Finding]:
    defaults = {one.name: one for one in reference()}
    findings = []
    for name in APP_SETTINGS:
        known = defaults[name]
        value = values.get(known.variable)
        if value is None:
            why = "the Functions host reads it by itself, knows no default, and leaves the function out"
            cure = (
                "az functionapp config appsettings set --name APP --resource-group GROUP"
                f" --settings '{known.variable}={known.default}'"
            )
            findings.append(Finding("is not set", f"application setting {known.variable}", why, cure))
        elif name.endswith("_schedule") and len(value.split()) not in _FIELDS:
            why = "the host does not start the timer"
            cure = f"set it to {known.default!r}, for example: second minute hour day month weekday"
            findings.append(Finding("is no NCRONTAB expression", f"application setting {known.variable}", why, cure))
    return findings


def _of_connections(values: Mapping[str, str]) -> list[Finding]:
    findings = []
    if values.get(RUNTIME) != "python":
        why = "the host starts no Python worker"
        findings.append(Finding("is not python", f"application setting {RUNTIME}", why, f"set {RUNTIME}=python"))
    if not any(values.get(name) for name in _STORAGE):
        why = "timers run on one instance at a time by a lease kept there: none of them runs"
        cure = "set AzureWebJobsStorage__accountName to a storage account that the app's identity may use"
        findings.append(Finding("is not set", "application setting AzureWebJobsStorage", why, cure))
    if not any(values.get(name) for name in _CONNECTION):
        why = "the triggers have no account to listen to"
        cure = "set COSMOS__accountEndpoint=https://<account>.documents.azure.com:443/"
        findings.append(Finding("is not set", "application setting COSMOS__accountEndpoint", why, cure))
    theirs, ours = values.get("COSMOS__accountEndpoint"), values.get("CROSSFEED_COSMOS_ENDPOINT")
    if theirs and ours and theirs.rstrip("/") != ours.rstrip("/"):
        why = "the triggers are handed the documents of one account, and read by key in another"
        where = "application settings COSMOS__accountEndpoint, CROSSFEED_COSMOS_ENDPOINT"
        findings.append(Finding("they name two accounts", where, why, "unset CROSSFEED_COSMOS_ENDPOINT"))
    return findings


def _local_values(around: Surroundings) -> dict[str, str]:
    """Return what local.settings.json sets, where the app is run on a machine of a developer."""
    values = _at(_read_json(around, "local.settings.json") or {}, "Values")
    return {name: str(value) for name, value in values.items()} if isinstance(values, dict) else {}


def _read_json(around: Surroundings, name: str) -> dict[str, Any] | None:
    assert around.app is not None
    try:
        found = json.loads((around.app / name).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _at(found: Any, *names: str) -> Any:  # noqa: ANN401 - whatever JSON a file holds
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
