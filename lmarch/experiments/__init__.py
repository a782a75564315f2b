"""Experiments: models that are trained once, found again, compared on the same targets, and judged by what was published."""
