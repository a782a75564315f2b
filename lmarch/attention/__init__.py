"""The one attention computation: its spec, its operands, its implementations, and its cache."""

from lmarch.attention import selection as selection  # registers the selections, which specs are built from by name
