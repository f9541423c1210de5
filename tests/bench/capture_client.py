"""The clients of the bench of capture, a process of their own: each connection writes one transaction after another."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import psycopg

ACCOUNT = {
    "email": "ada.lovelace@analytical-engine.example",
    "auth0_user_id": "auth0|64d2f0c1a7b3e9005c1f8a2d",
    "display_name": "Ada Lovelace",
    "role": "Guest",
    "user_profile_ids": json.dumps([f"8f14e45f-ceea-467f-9b36-3a2d5c8e0f{n}" for n in range(10, 13)]),
    "completed_scenario_ids": json.dumps([f"scenario-the-lost-lighthouse-{n}" for n in range(6)]),
    "subscription": json.dumps(
        {
            "Type": "Annual",
            "ProductId": "family.annual",
            "ValidUntil": "2027-01-31T08:00:00.0000000Z",
            "IsActive": True,
            "PurchaseToken": "GPA.3312-8901-2245-77102",
            "LastVerified": "2026-01-30T21:14:05.1234567Z",
            "PurchasedScenarios": ["scenario-winter", "scenario-robots"],
            "Tier": "Family",
        }
    ),
    "settings": json.dumps(
        {
            "CacheCredentials": True,
            "RequireAuthOnStartup": False,
            "PreferredLanguage": "en",
            "NotificationsEnabled": True,
            "Theme": "Light",
        }
    ),
    "created_at": "2025-03-01T09:30:00Z",
    "last_login_at": "2026-01-31T08:00:00Z",
}
"""An account of the example domain, but for its id: about 1 kB in eleven columns, four of them JSON."""


def upsert(table: str, id_: str, values: list[str]) -> str:
    """Return the statement that writes an account, of SQL expressions for its id and its other columns."""
    return (
        f"INSERT INTO {table} (id, {', '.join(ACCOUNT)}) VALUES ({id_}, {', '.join(values)})"
        f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in ACCOUNT)}"
    )


async def write(dsn: str, table: str, rows: int, clients: int, seconds: float) -> float:
    """Write with so many connections for so long; return the transactions per second."""
    sql = upsert(table, "%s", ["%s"] * len(ACCOUNT)).encode()
    account = tuple(ACCOUNT.values())
    written = 0
    connections = [await psycopg.AsyncConnection.connect(dsn, autocommit=True) for _ in range(clients)]
    until = time.perf_counter() + seconds

    async def client(connection: psycopg.AsyncConnection) -> None:
        nonlocal written
        cursor = connection.cursor()
        while time.perf_counter() < until:
            await cursor.execute(sql, (f"acc-{random.randint(1, rows)}", *account), prepare=True)
            written += 1

    await asyncio.gather(*map(client, connections))
    took = seconds + time.perf_counter() - until
    for connection in connections:
        await connection.close()
    return written / took


if __name__ == "__main__":
    dsn, table, rows, clients, seconds = sys.argv[1:]
    print(asyncio.run(write(dsn, table, int(rows), int(clients), float(seconds))))
