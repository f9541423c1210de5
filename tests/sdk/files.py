"""Names the files of the SDK's tests that are run, by what they are for."""

from __future__ import annotations

from typing import Final


def _both(*names: str) -> list[str]:
    """Return the file names of tests that exist for the sync client and for the async one."""
    return [f"test_{name}{suffix}.py" for name in names for suffix in ("", "_async")]


# At least 95 % of the tests in these must pass.
NAMED: Final = [
    *_both("change_feed", "change_feed_all_versions", "changefeed_partition_key_variation"),
    *_both("transactional_batch", "read_items", "feed_range", "query_feed_range"),
    *_both("query", "query_cross_partition", "session", "latest_session_token", "crud_subpartition"),
    *_both("cosmos_responses", "encoding", "partition_key", "headers", "none_options", "retryable_writes"),
    *_both("container_properties_cache", "crud_database"),
    *("test_ttl.py", "test_orderby.py", "test_aggregate.py"),  # there are no async ones
]
# These are run and compared with the list too.
MORE: Final = [
    *_both("crud", "crud_container", "crud_response_payload_on_write_disabled"),
    *_both("query_feed_range_multipartition", "read_items_partition_split", "partition_split_query"),
    *_both("change_feed_split", "pk_range_drain", "query_response_headers", "resource_id"),
    *_both("auto_scale", "computed_properties", "backwards_compatibility", "health_check"),
    *_both("full_text_policy", "vector_policy", "shared_cache_integration", "fault_injection_transport"),
    *_both("circuit_breaker_emulator", "aad", "user_agent_overwrite_regression", "read_timeout_propagation"),
    *_both("excluded_locations_emulator", "shared_cache_fault_injection"),
    *("test_user_configs.py", "test_client_user_agent_async.py", "test_pk_range_child_update_live_async.py"),
    *("test_multi_orderby.py", "test_diagnostics.py", "test_query_execution_context.py", "test_query_advisor.py"),
    *("test_compact_utf8_resilience.py", "test_session_token_helpers.py", "test_retry_policy.py"),
]
ALL: Final = [*NAMED, *MORE]
# Little time, much of the server: feed, batches, patches, queries, hierarchical keys, headers.
SHORT: Final = [
    *("test_transactional_batch.py", "test_change_feed.py", "test_change_feed_all_versions_async.py"),
    *("test_orderby.py", "test_query_feed_range_async.py", "test_feed_range.py"),
    *("test_crud_subpartition.py", "test_cosmos_responses.py"),
]
