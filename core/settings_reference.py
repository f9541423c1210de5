"""Describes every setting from the class that reads them, so that no list of them has to be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AliasChoices, SecretStr

from core.phases import Phase
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic.fields import FieldInfo

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "PostgreSQL": ("postgres",),
    "Azure Cosmos DB": ("cosmos", "events", "control", "tombstone"),
    "The application": ("mappings", "phase", "write", "transact", "shadow", "erase"),
    "Consumers of domain events": ("consumers", "consumer"),
    "The relay and its log": ("relay", "outbox"),
    "The mirror": ("mirror",),
    "Reconcile": ("reconcile",),
    "Backfill": ("backfill",),
    "The read cache": ("cache",),
    "Azure Functions": ("functions", "lease", "parked", "retention", "validate"),
    "Operating": ("http", "canary", "admin", "plaintext", "log"),
}
"""Titles in their order, and the first words of the settings below each."""


@dataclass(frozen=True, slots=True)
class Described:
    """One setting.

    Args:
        name: of the field.
        variable: of the environment; `also` are others that will do.
        group: its title in GROUPS; an empty one if it fits none.
        kind: what it takes, and from where to where.
        default: as it would be set; empty if it has none.
        description: a phrase.
        is_secret: whether its value is shown to nobody.

    """

    name: str
    variable: str
    also: tuple[str, ...]
    group: str
    kind: str
    default: str
    description: str
    is_secret: bool


def reference() -> list[Described]:
    """Return every setting, by group, in the order of the class within each."""
    order = [*GROUPS, ""]
    fields = Settings.model_fields
    return sorted(map(_described, fields, fields.values()), key=lambda one: order.index(one.group))


def variables() -> set[str]:
    """Return the names of all variables that are read as a setting."""
    return {name for one in reference() for name in (one.variable, *one.also)}


def markdown() -> str:
    """Return the reference as tables of Markdown, one for each group."""
    return "\n\n".join(
        "\n".join([f"**{title}**", "", "| setting | takes | default | |", "|---|---|---|---|", *map(_row, settings)])
        for title, settings in grouped(reference())
    )


def grouped(settings: Iterable[Described]) -> Iterator[tuple[str, list[Described]]]:
    """Yield each group that is not empty, with its settings."""
    found: dict[str, list[Described]] = {}
    for one in settings:
        found.setdefault(one.group, []).append(one)
    yield from found.items()


def _row(one: Described) -> str:
    also = f" (also `{'`, `'.join(one.also)}`)" if one.also else ""
    default = f"`{one.default}`" if one.default else ""
    cells = [f"`{one.variable}`{also}", one.kind, default, one.description]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('<', '&lt;') for cell in cells)} |"


def _described(name: str, field: FieldInfo) -> Described:
    names = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
    variable, *also = [str(choice) for choice in names] or [f"CROSSFEED_{name.upper()}"]
    word = name.partition("_")[0]
    types = [part for part in (get_args(field.annotation) or (field.annotation,)) if part is not type(None)]
    if get_origin(field.annotation) is Literal:
        types = [field.annotation]
    return Described(
        name,
        variable,
        tuple(also),
        next((title for title, words in GROUPS.items() if word in words), ""),
        _kind(types[0], field.metadata),
        _spelled(field.get_default()),
        field.description or "",
        types[0] is SecretStr,
    )


def _kind(kind: Any, metadata: Iterable[object]) -> str:  # noqa: ANN401 - any annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is Phase:
        return ", ".join(f"`{phase.label}`" for phase in Phase)
    spelled = {bool: "`true`, `false`", int: "integer", float: "number", SecretStr: "secret text"}.get(kind, "text")
    limits = " ".join(limit for item in metadata if (limit := _limit(item)))
    return f"{spelled}, {limits}" if limits else spelled


def _limit(item: object) -> str:
    match item:
        case Ge(ge=least):
            return f"from {least}"
        case Gt(gt=least):
            return f"above {least}"
        case Le(le=most):
            return f"to {most}"
        case MinLen(min_length=least) if least > 1:
            return f"at least {least} characters"
        case _:
            return ""


def _spelled(default: object) -> str:
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case float() if default.is_integer():
            return str(int(default))
        case _:
            return str(default)
