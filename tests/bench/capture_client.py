"""The clients of the bench of capture, a process of their own: each connection writes one transaction after another."""

from __future__ import annotations

import asyncio
import random
import sys
import time

import psycopg

PAYLOAD = "x" * 400
UPSERT = """
    INSERT INTO {table} AS t (id, name, visits, notes) VALUES (%s, 'Ada Lovelace', 1, %s)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, visits = t.visits + 1, notes = excluded.notes
"""


async def write(dsn: str, table: str, rows: int, clients: int, seconds: float) -> float:
    """Write with so many connections for so long; return the transactions per second."""
    sql = UPSERT.format(table=table).encode()
    written = 0
    connections = [await psycopg.AsyncConnection.connect(dsn, autocommit=True) for _ in range(clients)]
    until = time.perf_counter() + seconds

    async def client(connection: psycopg.AsyncConnection) -> None:
        nonlocal written
        cursor = connection.cursor()
        while time.perf_counter() < until:
            await cursor.execute(sql, (f"customer-{random.randint(1, rows)}", PAYLOAD), prepare=True)
            written += 1

    await asyncio.gather(*map(client, connections))
    took = seconds + time.perf_counter() - until
    for connection in connections:
        await connection.close()
    return written / took


if __name__ == "__main__":
    dsn, table, rows, clients, seconds = sys.argv[1:]
    print(asyncio.run(write(dsn, table, int(rows), int(clients), float(seconds))))
