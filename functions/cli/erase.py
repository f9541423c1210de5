"""Removes one person's data from both stores, and proves it."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from core.content import load_exact
from core.errors import ConfigurationError, DocumentRefusedError
from core.identity import Identity, is_readable_id
from core.settings import Settings
from functions.cli.options import AsJson, loaded
from functions.cli.running import run

if TYPE_CHECKING:
    from core.mappings import Mappings
    from core.migration.erase import Erased


def erase(
    entity: Annotated[str, typer.Argument(help="The mapping's name, such as Account.")],
    key: Annotated[str, typer.Argument(help="The partition key: a text, or a JSON array with a value per level.")],
    id_: Annotated[str, typer.Argument(metavar="ID", help="The document's id.")],
    as_json: AsJson = False,
) -> None:
    """Erase a document from both stores, dead letters, what is parked, the cache, and its domain events.

    Its tombstones hold the key and no content. Where the partition key is more than the id, it stays in them until the
    one in Cosmos DB has expired: an hour later, or, where it was published before, when its own TTL has passed
    (CROSSFEED_TOMBSTONE_TTL_S). Run this again then, and a keyed hash (CROSSFEED_ERASE_KEY) takes its place. Backups,
    logs of your own and continuous backups of Cosmos DB are yours to look after.
    """
    settings = loaded()
    erased = run(_erase(settings, entity, key, id_))
    if as_json:
        print(orjson.dumps(erased.facts()).decode())
        return
    for name, value in erased.facts().items():
        shown = " ".join(f"{what}={count}" for what, count in value.items()) if isinstance(value, dict) else value
        print(f"{name}: {shown}")


async def _erase(settings: Settings, entity: str, key: str, id_: str) -> "Erased":
    from core.migration.erase import TTL_S, erase  # noqa: PLC0415 - what `--help` need not load
    from functions.bootstrap import bootstrap  # noqa: PLC0415 - what `--help` need not load
    from outbox.publisher import Publisher  # noqa: PLC0415 - what `--help` need not load

    settings = settings.model_copy(update={"tombstone_ttl_s": TTL_S})
    async with AsyncExitStack() as stack:
        application = await stack.enter_async_context(bootstrap(settings))
        parts = application.engine, application.store, application.mappings, settings
        identity = _identity(application.mappings, entity, key, id_)
        return await erase(*parts, Publisher(*parts), identity, application.cache)


def _identity(mappings: "Mappings", entity: str, key: str, id_: str) -> Identity:
    names = [mapping.name for mapping in mappings]
    if entity not in names:
        msg = f"no mapping is called {entity!r}; there are {', '.join(names)}"
        raise ConfigurationError(msg)
    try:
        parts = load_exact(key) if key.startswith("[") else [key]
    except (DocumentRefusedError, ValueError) as error:
        msg = "KEY is neither a text nor a JSON array with a value per level of the partition key"
        raise ConfigurationError(msg) from error
    if not isinstance(parts, list) or len(parts) != len(mappings.named(entity).paths):
        msg = f"KEY must have {len(mappings.named(entity).paths)} level(s), as the partition key of {entity} has"
        raise ConfigurationError(msg)
    if not all(part is None or isinstance(part, str | int | float) for part in parts):
        msg = "every level of KEY must be a text, a number, true, false or null"
        raise ConfigurationError(msg)
    if not is_readable_id(id_):
        msg = "no document has this id: it is empty, dots, or holds '/'"
        raise ConfigurationError(msg)
    try:
        return Identity.of(entity, parts, id_)
    except DocumentRefusedError as error:
        msg = f"no document has this key: {error}"
        raise ConfigurationError(msg) from error
