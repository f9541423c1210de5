"""Creates containers as Crossfeed needs them, and says what is wrong with those that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import structlog
from azure.cosmos import PartitionKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from azure.cosmos.aio import DatabaseProxy

    from core.mapping import EntityMapping
    from core.settings import Settings

_log = structlog.get_logger()

TTL_BY_DOCUMENT: Final = -1
"""A container's default TTL that lets documents live for ever unless they carry a `ttl` of their own."""


@dataclass(frozen=True, slots=True)
class OwnContainer:
    """A container that no mapping names: what is in it is neither an entity's document nor a tombstone.

    Args:
        name: its name.
        path: its partition key path.
        holds: what it holds, for messages.

    """

    name: str
    path: str
    holds: str


@dataclass(frozen=True, slots=True)
class OwnContainers:
    """All of them. Iterated over are those that every process needs; `leases` are of the triggers alone."""

    events: OwnContainer
    control: OwnContainer
    leases: OwnContainer

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return those that the settings name."""
        return cls(
            OwnContainer(settings.events_container, "/subject", "domain events"),
            OwnContainer(settings.control_container, "/instance", "the relays' markers"),
            OwnContainer(settings.lease_container, "/id", "the triggers' leases"),
        )

    def __iter__(self) -> Iterator[OwnContainer]:
        return iter((self.events, self.control))


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container as it has to be, for whoever creates it: this program, or a template that reads it as JSON.

    Args:
        name: its name.
        paths: its partition key paths, one per level.
        unique_keys: paths that are unique within a logical partition, each by itself.
        mapped: whether it holds documents of a mapping; else it is Crossfeed's own.

    """

    name: str
    paths: tuple[str, ...]
    unique_keys: tuple[str, ...]
    mapped: bool

    def facts(self) -> dict[str, Any]:
        """Return it as Azure's resource of a container spells it."""
        return {
            "name": self.name,
            "paths": list(self.paths),
            "kind": "Hash" if len(self.paths) == 1 else "MultiHash",
            "uniqueKeys": [{"paths": [path]} for path in self.unique_keys],
            "defaultTtl": TTL_BY_DOCUMENT,
        }


def planned(mappings: Iterable[EntityMapping[Any]], own: Iterable[OwnContainer]) -> list[ContainerPlan]:
    """Return the containers that there have to be, each once; of mappings that share one the first decides."""
    plans: dict[str, ContainerPlan] = {}
    for mapping in mappings:
        plan = ContainerPlan(mapping.container, tuple(mapping.paths), tuple(mapping.unique_keys), mapped=True)
        plans.setdefault(plan.name, plan)
    for container in own:
        plans.setdefault(container.name, ContainerPlan(container.name, (container.path,), (), mapped=False))
    return list(plans.values())


async def create_containers(
    database: DatabaseProxy, mappings: Iterable[EntityMapping[Any]], own: Iterable[OwnContainer], throughput: int | None
) -> None:
    """Create the containers that are not there. Lets the client's errors (DRIVER_ERRORS) through.

    Args:
        database: where.
        mappings: whose containers.
        own: Crossfeed's own.
        throughput: RU/s of each mapped container that is created, None for the account's default.

    """
    for plan in planned(mappings, own):
        facts = plan.facts()
        await database.create_container_if_not_exists(
            plan.name,
            partition_key=PartitionKey(
                path=facts["paths"] if len(plan.paths) > 1 else plan.paths[0], kind=facts["kind"]
            ),
            default_ttl=facts["defaultTtl"],
            unique_key_policy={"uniqueKeys": facts["uniqueKeys"]} if plan.unique_keys else None,
            offer_throughput=throughput if plan.mapped else None,
        )


def problems_of(mapping: EntityMapping[Any], properties: Mapping[str, Any] | None) -> list[str]:
    """Say what is wrong with the container of a mapping that has these properties, or is missing (None)."""
    name = f"container {mapping.container!r} of mapping {mapping.name}"
    if properties is None:
        return [_missing(name, mapping.paths)]
    problems = []
    paths = tuple(properties["partitionKey"]["paths"])
    if paths != mapping.paths:
        problems.append(f"{name} has partition key {', '.join(paths)}, the mapping says {', '.join(mapping.paths)}")
    if properties.get("defaultTtl") is None:
        problems.append(
            f"{name} has no TTL: set its default TTL to {TTL_BY_DOCUMENT} (on, no default), tombstones need it"
        )
    elif properties["defaultTtl"] != TTL_BY_DOCUMENT:
        # What expires shows in no feed: it is a hard delete, found late by the reconcile timer.
        _log.warning("cosmos.documents_expire", container=mapping.container, default_ttl_s=properties["defaultTtl"])
    unique = {path for key in properties.get("uniqueKeyPolicy", {}).get("uniqueKeys", []) for path in key["paths"]}
    if unknown := sorted(unique - set(mapping.unique_keys)):
        problems.append(f"{name} has unique keys that the mapping does not name: unique_keys=({', '.join(unknown)})")
    return problems


def problems_of_own(container: OwnContainer, properties: Mapping[str, Any] | None) -> list[str]:
    """Say what is wrong with one of Crossfeed's own containers that has these properties, or is missing (None)."""
    name = f"container {container.name!r} of {container.holds}"
    if properties is None:
        return [_missing(name, (container.path,))]
    paths = tuple(properties["partitionKey"]["paths"])
    if paths != (container.path,):
        return [f"{name} has partition key {', '.join(paths)}, it must be {container.path}"]
    return []


def _missing(name: str, paths: tuple[str, ...]) -> str:
    return (
        f"{name} does not exist: create it with partition key {', '.join(paths)}"
        f" and default TTL {TTL_BY_DOCUMENT} (on, no default)"
    )
