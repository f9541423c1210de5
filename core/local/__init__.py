"""Everything Crossfeed needs, on one machine with nothing installed: for the demo, for tests, for trying things."""
