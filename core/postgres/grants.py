"""Gives a role exactly the rights of the processes that run under it, so that none has to be its tables' owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from core.errors import ConfigurationError
from core.postgres.engine import run
from core.postgres.names import literal
from core.postgres.rights import rights_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.mapping import EntityMapping
    from core.postgres.rights import Process

# What is taken from a role that owns the schema is taken from every function that runs with its owner's rights.
_ROLE = text("""
    SELECT r.rolsuper, EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = 'crossfeed' AND n.nspowner = r.oid)
        OR EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'crossfeed' AND c.relowner = r.oid)
    FROM pg_roles r WHERE r.rolname = :role
""")

_OWN = """
    REVOKE ALL ON ALL TABLES IN SCHEMA crossfeed FROM {role};
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA crossfeed FROM {role};
    REVOKE ALL ON SCHEMA crossfeed FROM {role}
"""


def statements(role: str, processes: Iterable[Process], mappings: Iterable[EntityMapping[Any]]) -> list[str]:
    """Return what gives a role the rights of these processes, and takes from it whatever else it had in our schema.

    On tables that are mapped nothing is taken: the role may have rights there that are none of our business.

    Args:
        role: its name, as it is.
        processes: those that run under it.
        mappings: whose tables they read and write.

    """
    known = list(mappings)
    wanted: dict[str, list[str]] = {}
    for process in processes:
        for name, privilege in rights_of(process, known):
            privileges = wanted.setdefault(name, [])
            if privilege not in privileges:
                privileges.append(privilege)
    name = _quoted(role)
    taken = [line.strip() for line in _OWN.format(role=name).split(";")]
    return [*taken, *(f"GRANT {', '.join(privileges)} ON {on} TO {name}" for on, privileges in wanted.items())]


def creation(role: str, entra_object: uuid.UUID) -> list[str]:
    """Return what creates a role for a managed identity, on Azure Database for PostgreSQL.

    Its function pgaadauth_create_principal does the same in the database `postgres` alone, and by a name that need not
    be unique in the tenant; this takes the identity's object id.

    Args:
        role: its name, which is the user of the identity's connections.
        entra_object: the object (principal) id of the identity.

    """
    label = literal(f"aadauth,oid={entra_object},type=service")
    name = _quoted(role)
    return [f"CREATE ROLE {name} LOGIN", f'SECURITY LABEL FOR "pgaadauth" ON ROLE {name} IS {label}']


async def grant(
    connection: AsyncConnection,
    role: str,
    processes: Iterable[Process],
    mappings: Iterable[EntityMapping[Any]],
    entra_object: uuid.UUID | None = None,
) -> list[str]:
    """Give a role its rights, in the connection's transaction, and return the statements that did it.

    It can be repeated, and has to be after a migration that brought new tables or a new mapping.

    Args:
        connection: of the owner of the schema and of the mapped tables, or of a superuser.
        role: whose rights.
        processes: those that run under it.
        mappings: whose tables they read and write.
        entra_object: of the identity that the role is for: it is created where there is none, and bound to it again.

    Raises:
        ConfigurationError: there is no such role and no identity to make it for, or the role is a superuser, or owns
            the schema.
        sqlalchemy.exc.DBAPIError: Postgres refused a statement.

    """
    # Two at once would update the same rows of the catalogue.
    await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('crossfeed.migrate', 0))")
    found = (await connection.execute(_ROLE, {"role": role})).one_or_none()
    is_superuser, is_owner = found or (False, False)
    if is_superuser:
        msg = f"the role {role} is a superuser, so that no right can be kept from it: give the process another one"
        raise ConfigurationError(msg)
    if is_owner:
        msg = (
            f"the role {role} owns the schema crossfeed, or a part of it, and needs all of it: give the process another"
        )
        raise ConfigurationError(msg)
    if found is None and entra_object is None:
        msg = (
            f"there is no role {role}: create it (CREATE ROLE {_quoted(role)} LOGIN …), or name the object id of the"
            " managed identity that it is for (--entra, Azure Database for PostgreSQL)"
        )
        raise ConfigurationError(msg)
    created = [] if entra_object is None else creation(role, entra_object)[0 if found is None else 1 :]
    done = [*created, *statements(role, processes, mappings)]
    await run(connection, *done)
    return done


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'
