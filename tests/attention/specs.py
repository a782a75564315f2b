"""Specs for the attention tests, among them two-branch ones built by hand (index maps have no name yet)."""

import dataclasses

import lmarch
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Branch, PositionMap, Region


def rope(head_dim: int = 16, num_heads: int = 4, **kwargs) -> AttentionSpec:
    return lmarch.attention_spec(head_dim=head_dim, num_heads=num_heads, trained_length=64, **kwargs)


def with_branches(spec: AttentionSpec, *branches: Branch) -> AttentionSpec:
    return dataclasses.replace(spec, position=dataclasses.replace(spec.position, branches=branches))


def rerope(window: int, **kwargs) -> AttentionSpec:
    """delta = d for d < w, else w."""
    near = Branch(Region(distance=(None, window - 1)))
    far = Branch(Region(distance=(window, None)), PositionMap(scale=0, offset=window), PositionMap(scale=0))
    return with_branches(rope(**kwargs), near, far)


def leaky_rerope(window: int, k: float, **kwargs) -> AttentionSpec:
    """delta = d for d < w, else w + (d - w) / k."""
    near = Branch(Region(distance=(None, window - 1)))
    far = PositionMap(scale=1 / k, offset=window - window / k)
    return with_branches(rope(**kwargs), near, Branch(Region(distance=(window, None)), far, PositionMap(scale=1 / k)))


def sinks(spec: AttentionSpec, size: int, count: int) -> AttentionSpec:
    """A window of `size` recent tokens and `count` first ones: leaves tiles in the middle that nobody sees."""
    recent = Region(distance=(0, size - 1))
    return dataclasses.replace(spec, visibility=(recent, Region(distance=(size, None), key=(None, count - 1))))
