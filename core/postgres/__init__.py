"""The Postgres side: engine, capture, guarded write, repository and unit of work."""
