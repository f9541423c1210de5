"""Every error that Crossfeed raises, so that a caller can tell what to repeat, what to resolve and what to report.

    CrossfeedError
    |-- ConfigurationError        nothing was tried: a setting, a mapping or a schema is wrong
    |   |-- MappingError          the mapping does not fit its model, its table or its container
    |   `-- SchemaError           the crossfeed schema is missing, older or newer than this code
    |-- ConflictError             nothing was written: read again, decide again
    |   |-- AlreadyExistsError
    |   |-- ConcurrencyError
    |   |-- NotFoundError
    |   `-- PrimaryMovedError     the other store is primary now, or a switch is under way
    |       `-- PhasePinnedError  this process is set to write in another phase alone
    |-- TransientError            infrastructure: the same call may succeed later
    |   `-- StoreUnavailableError
    |-- PermanentError            the same input will fail again
    |   |-- DocumentRefusedError  content that one of the two stores cannot hold
    |   `-- CrossPartitionError   one Cosmos unit of work, two logical partitions
    |-- HistoryLostError          Postgres lost commits that Cosmos DB has seen: an operator's `crossfeed outbox resync`
    `-- OutcomeUnknownError       sent, never answered: it may or may not have been written

Adapters translate driver errors into these once, and keep the cause.
"""

from __future__ import annotations


class CrossfeedError(Exception):
    """Anything that Crossfeed raises on purpose."""


class ConfigurationError(CrossfeedError):
    """A setting, a mapping or a schema is wrong; the message names which, where, and what to do."""


class MappingError(ConfigurationError):
    """A mapping does not fit its model, its table or its container."""


class SchemaError(ConfigurationError):
    """The crossfeed schema in Postgres is missing, older or newer than this code expects."""


class ConflictError(CrossfeedError):
    """The state was not what the caller assumed; nothing was written."""


class AlreadyExistsError(ConflictError):
    """An entity with this identity exists already."""


class ConcurrencyError(ConflictError):
    """The entity was changed or deleted since it was read; read it again."""


class NotFoundError(ConflictError):
    """No entity with this identity exists."""


class PrimaryMovedError(ConflictError):
    """The store that was to be written is not the primary (any more), or a switch is draining its writers."""


class PhasePinnedError(PrimaryMovedError):
    """CROSSFEED_PHASE names another phase than the recorded one; repeating helps once one of the two was changed."""


class TransientError(CrossfeedError):
    """Infrastructure failed; the same call may succeed later. Never counts as an attempt of a document."""


class StoreUnavailableError(TransientError):
    """A store did not answer, throttled the request, or lost the connection before anything was written."""


class PermanentError(CrossfeedError):
    """The same input will fail again."""


class DocumentRefusedError(PermanentError):
    """The content or the key is something that Postgres or Cosmos DB cannot hold; the message names the place."""


class CrossPartitionError(PermanentError):
    """A unit of work on Cosmos DB touched more than one logical partition; it commits exactly one atomically."""


class HistoryLostError(CrossfeedError):
    """Postgres does not hold what was sent from it: it was restored, rolled back, or promoted without its last commits.

    Repeating helps nothing and going on would do harm, so the relay stops; the message says what was found and names
    `crossfeed outbox resync`.
    """


class OutcomeUnknownError(CrossfeedError):
    """A write was sent and its answer never came: it may or may not have taken effect. Never repeated silently."""
