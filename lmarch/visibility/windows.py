"""Context windows: they narrow what a token sees, and say where the sinks they keep seem to be.

`lag` is how many tokens back a key lies; published window sizes differ by one in whether they count the query itself.
In a bidirectional layer or a prefix a window reaches as far to the right as to the left.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from lmarch.branches import Branch, MaskKind, PositionMap, Region, at
from lmarch.errors import require
from lmarch.registry import Registry, Variant, label
from lmarch.visibility.masks import Visibility
from lmarch.visibility.parallel import Layout


class Narrowed(NamedTuple):
    """A layer's visibility as far as a window leaves it, and the branches of its positions inside it."""

    visibility: Visibility
    branches: tuple[Branch, ...]


class Window(Protocol):
    """A frozen dataclass of parameters."""

    bounded: ClassVar[bool]  # promises effective distances below the trained length

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Window":
        """Return the window with derived parameters filled in; raise UserError for impossible ones."""
        ...

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        """Return what the window leaves of a layer's visibility, and the branches of its positions inside it."""
        ...


WINDOWS: Registry[Window] = Registry("window")


def build_window(window: Variant, trained_length: int, mask_kind: MaskKind) -> Window:
    """Return the resolved window of a name or variant; raise UserError for an unknown or impossible one."""
    return WINDOWS.build(window).resolve(trained_length, mask_kind)


@WINDOWS.register("full")
@dataclasses.dataclass(frozen=True)
class Full:
    """Everything the architecture lets a token see."""

    bounded: ClassVar[bool] = False

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Full":
        return self

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        return Narrowed(visibility, branches)


@WINDOWS.register("sliding")
@dataclasses.dataclass(frozen=True)
class Sliding:
    """The `size` most recent tokens, the query among them: 0 <= lag < size (Mistral's convention).

    `prefix`: whether a prefix is windowed too or stays visible as a whole, at its true distances.
    """

    size: int | None = None  # none: the trained length
    prefix: Literal["windowed", "visible"] = "windowed"
    bounded: ClassVar[bool] = True

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Sliding":
        return _sized(self, trained_length)

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        assert self.size is not None
        recent = Region(lag=(1 - self.size, self.size - 1))
        always = tuple(region & recent for region in visibility.always)
        if self.prefix == "visible" and visibility.to_prefix:
            return Narrowed(Visibility(always, (*visibility.to_prefix, Region(lag=(self.size, None)))), branches)
        return Narrowed(Visibility(always, tuple(region & recent for region in visibility.to_prefix)), branches)


@WINDOWS.register("streaming")
@dataclasses.dataclass(frozen=True)
class Streaming:
    """The first `sinks` tokens of a document and the `size` tokens before the query (Xiao et al. 2024, 2309.17453).

    Visible: lag <= size (the released evaluation script evicts after its step, so `size` past tokens and the query), or
    a sink. Positions are those of cache slots: recents at their true distance, a sink s at min(t, sinks + size) - s,
    t and s counted from the start of the document.
    """

    sinks: int = 4
    size: int | None = None  # none: the trained length - sinks - 1, so that no distance is new
    bounded: ClassVar[bool] = True

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Streaming":
        return _sized(self, trained_length - self.sinks - 1)

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        assert self.size is not None
        slot = PositionMap(ceiling=self.sinks + self.size)
        sink = Branch(_sinks(self.size, self.sinks), slot, PositionMap(), ranked=True)
        return _recents_and_sinks(visibility, branches, self.size, sink.region, (sink,))


@WINDOWS.register("lm_infinite")
@dataclasses.dataclass(frozen=True)
class LmInfinite:
    """Lambda-shaped: lag < size, or one of the first `sinks` tokens, at distance `ceiling` (Han et al. 2024, 2308.16137).

    The distance of recents is cut at `ceiling` too, which is refused over an index map: it has a ceiling of its own. The
    authors take size = ceiling = L, which uses one distance that was never trained; the default here is L - 1. A ceiling
    above the size leaves a gap that their slow path fills with zeros, and is refused. `capped=False` leaves sinks where they
    are, at distances that were never trained: the mask alone, for the ablation of the method's two parts.
    """

    size: int | None = None  # none: the trained length - 1
    sinks: int = 10
    ceiling: int | None = None  # none: the size
    capped: bool = True
    bounded: ClassVar[bool] = True

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "LmInfinite":
        window = _sized(self, trained_length - 1)
        ceiling = window.size if self.ceiling is None else self.ceiling
        require(1 <= ceiling <= window.size, "lm_infinite ceiling", ceiling, f"must be in [1, size={window.size}]")
        used = self.capped or ceiling == window.size
        require(used, "lm_infinite ceiling", ceiling, "is not used with capped=False: leave one of them out")
        return dataclasses.replace(window, ceiling=ceiling)

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        assert self.size is not None
        assert self.ceiling is not None
        sinks = _sinks(self.size - 1, self.sinks)
        if not self.capped:
            where_they_are = tuple(dataclasses.replace(branch, region=branch.region & sinks) for branch in branches)
            return _recents_and_sinks(visibility, branches, self.size - 1, sinks, where_they_are)
        capped = [Branch(sinks, at(self.ceiling), at(0))]
        if self.ceiling < self.size:
            rule = f"below size={self.size} needs positions without an index map: leave the ceiling out"
            require(branches == (Branch(),), "lm_infinite ceiling", self.ceiling, rule)
            causal, recent = visibility.mask_kind == "causal", Region(lag=(1 - self.size, self.size - 1))
            within = Region(distance=(None if causal else -self.ceiling, self.ceiling))
            branches = tuple(dataclasses.replace(branch, region=branch.region & within) for branch in branches)
            for sign in (1,) if causal else (1, -1):
                beyond = Region(distance=(self.ceiling + 1, None) if sign > 0 else (None, -self.ceiling - 1))
                capped.append(Branch(recent & beyond, at(sign * self.ceiling), at(0)))
        return _recents_and_sinks(visibility, branches, self.size - 1, sinks, tuple(capped))


@WINDOWS.register("parallel")
@dataclasses.dataclass(frozen=True)
class Parallel:
    """Parallel context windows (Ratner et al. 2023, arXiv 2212.10947): a text cut into windows that share positions.

    Windows of `size` tokens, each at positions 0 .. size-1, see themselves only; the last `task_length` tokens of the text
    follow at positions size .. and see everything before them. So how a text is cut depends on its length. In an encoder
    there is no task by default: its output is that of windows encoded alone, and cross-attention sees all of them.
    `first`: the released code lets the task see the first token (BOS) of the longest window only (`longest`); in the
    paper all windows are alike. `align`: where a last window that is shorter lies.
    """

    size: int | None = None  # none: what the task leaves of the trained length
    task_length: int | None = None  # none: an eighth of the trained length; in an encoder 0
    first: Literal["all", "longest"] = "all"
    align: Literal["left", "right"] = "left"
    bounded: ClassVar[bool] = True

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Parallel":
        default = 0 if mask_kind == "bidirectional" else trained_length // 8
        task = default if self.task_length is None else self.task_length
        require(task >= 0, "parallel task_length", task, "must not be negative")
        return _sized(dataclasses.replace(self, task_length=task), trained_length - task)

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        assert self.size is not None
        assert self.task_length is not None
        layout = Layout(self.size, self.task_length, self.first == "longest", self.align == "right")
        return Narrowed(dataclasses.replace(visibility, layout=layout), branches)


def _sized(window: Any, default: int) -> Any:
    """Return the window with its size, `default` where it has none; raise UserError for impossible sizes and sinks."""
    size = default if window.size is None else window.size
    require(size >= 1, f"{label(window)} size", size, "must be 1 or more")
    sinks = getattr(window, "sinks", 0)
    require(sinks >= 0, f"{label(window)} sinks", sinks, "must not be negative")
    return dataclasses.replace(window, size=size)


def _sinks(lag: int, count: int) -> Region:
    """Return the pairs whose key lies more than `lag` tokens back, among the first `count` of its document."""
    return Region(lag=(lag + 1, None), rank=(None, count - 1))


def _recents_and_sinks(
    visibility: Visibility, branches: tuple[Branch, ...], lag: int, sinks: Region, beyond: tuple[Branch, ...]
) -> Narrowed:
    """Return a visibility of tokens up to `lag` away, and of `sinks` farther back.

    Args:
      branches: those of the layer's positions; they hold up to `lag` tokens away.
      lag: tokens.
      sinks: pairs more than `lag` tokens back.
      beyond: the branches of these.
    """
    recent = Region(lag=(-lag, lag))
    near = tuple(dataclasses.replace(branch, region=branch.region & recent) for branch in branches)
    always = tuple(region & recent for region in visibility.always)
    to_sinks = tuple(region & sinks for region in visibility.always)
    to_prefix = tuple(region & recent for region in visibility.to_prefix)
    return Narrowed(Visibility((*always, *to_sinks), to_prefix), (*near, *beyond))
