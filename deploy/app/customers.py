import asyncio
import sys

import sqlalchemy as sa

from core import Crossfeed, Entity, EntityMapping, Settings
from core.postgres import capture
from core.postgres.engine import open_engine


class Customer(Entity):  # a pydantic model; unknown properties survive
    name: str = ""


metadata = sa.MetaData()
table = sa.Table("customers", metadata, sa.Column("id", sa.Text, primary_key=True), sa.Column("name", sa.Text))
customers = EntityMapping(Customer, table=table, container="Customers", partition_key="/id")
MAPPINGS = [customers]


async def prepare() -> None:  # in real life a migration of yours: capture.install(op, customers)
    async with open_engine(Settings.load()) as engine, engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.run_sync(capture.install, customers)


async def main() -> None:
    async with Crossfeed.open(Settings.load(), MAPPINGS) as db:
        async with db.unit_of_work() as work:
            await work[Customer].add(Customer(id="c1", name="Ada"))
            await work.commit()
        async with db.unit_of_work() as work:
            ada = await work[Customer].get_by_id("c1")
            ada.name = "Ada Lovelace"
            await work[Customer].update(ada)  # ConcurrencyError if somebody was faster
            await work.commit()


asyncio.run(prepare() if "prepare" in sys.argv else main()) if __name__ == "__main__" else None
