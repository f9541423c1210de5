"""Looks at an installation from the outside, and names for whatever is wrong what cures it."""
