"""The status page: what is read from Postgres, judged, rendered and served; and what may be done from it."""
