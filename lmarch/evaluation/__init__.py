"""Measuring: a fixed manifest of targets, the same for every method and length, and intervals on every number."""
