"""The tables of revision 0001 behind the status page: samples of lag and throughput, and the last comparison."""

from __future__ import annotations

OVERVIEW_TABLES = (
    # -- Written every few seconds by whoever carries documents, purged by the same statement. `total` counts since the
    # -- source began, so that a sample that was not written loses nothing. `lag_s` is null where nothing is to be sent.
    """
    CREATE TABLE crossfeed.sample (
        at        timestamptz NOT NULL DEFAULT clock_timestamp(),
        source    text NOT NULL,
        direction text NOT NULL CHECK (direction IN ('to_cosmos', 'to_postgres')),
        lag_s     double precision,
        total     bigint NOT NULL
    )
    """,
    "CREATE INDEX sample_at ON crossfeed.sample (at)",
    # -- Counts alone: what differs is named by `crossfeed validate`, and nothing here has to be erased.
    """
    CREATE TABLE crossfeed.parity (
        entity      text PRIMARY KEY,
        as_of       timestamptz NOT NULL,
        deep        boolean NOT NULL,
        rows        bigint NOT NULL,
        documents   bigint NOT NULL,
        differences bigint NOT NULL,
        accounted   bigint NOT NULL,
        busy        bigint NOT NULL
    )
    """,
)
