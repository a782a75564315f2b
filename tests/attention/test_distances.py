"""Effective distances and visibility of every index map and window, against golden maps and closed forms."""

import numpy as np
import pytest
from specs import rope, with_branches

import lmarch
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Branch, Pairs, PositionMap, Region
from lmarch.errors import UserError


def spec(position="rope", window="full", trained: int = 64, target: int | None = None, **kwargs) -> AttentionSpec:
    return lmarch.attention_spec(
        position=position,
        window=window,
        head_dim=kwargs.pop("head_dim", 16),
        num_heads=kwargs.pop("num_heads", 2),
        trained_length=trained,
        target_length=target,
        **kwargs,
    )


def self_extend(G: int, W: int, shift: str, **kwargs) -> AttentionSpec:
    """The registered method refuses a group that does not divide its window; the core computes it all the same."""
    if W % G == 0:
        return spec(f"self_extend:group={G},window={W}", **kwargs)
    far = PositionMap(group=G, offset=W - (W // G if shift == "floor" else W / G))
    far_branch = Branch(Region(distance=(W, None)), far, PositionMap(group=G))
    return with_branches(spec(**kwargs), Branch(Region(distance=(None, W - 1))), far_branch)


GOLDEN = {
    "rope": lambda **k: spec(**k),
    "pi": lambda scale, **k: spec(f"linear:factor={scale}", **k),
    "rerope": lambda w, **k: spec(f"rerope:window={w}", **k),
    "leaky_rerope": lambda w, k, **o: spec({"name": "leaky_rerope", "window": w, "k": k}, **o),
    "selfextend": self_extend,
    "dca": lambda chunk, qmax, **k: spec(f"dual_chunk:chunk={chunk},max_position={qmax}", **k),
    "lm_infinite": lambda L, G, **k: spec(window=f"lm_infinite:size={L},sinks={G}", **k),
    "streaming": lambda S, R, **k: spec(window=f"streaming:sinks={S},size={R}", **k),
    "sliding_window": lambda W, **k: spec(window=f"sliding:size={W}", **k),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_distances_and_masks_equal_the_golden_ones(name: str, golden) -> None:
    cases = {c: p for c, p in golden.cases["relmaps"].items() if c.rpartition(".")[0] == name}
    assert cases
    for case, parameters in cases.items():
        for length in (16, 128):
            made = GOLDEN[name](**parameters)
            mask, delta = (golden[f"relmaps/{case}.T{length}.{what}"] for what in ("mask", "delta"))
            mask = mask.astype(bool)
            assert np.array_equal(made.visible(length), mask), case
            np.testing.assert_allclose(made.effective_distance(length)[mask], delta[mask], atol=1e-12, err_msg=case)
            assert np.isnan(made.effective_distance(length)[~mask]).all()


@pytest.mark.parametrize("length", [8, 16])
@pytest.mark.parametrize("prefix", [0, 3, None])
def test_prefix_masks_equal_the_golden_ones(prefix: int | None, length: int, golden) -> None:
    prefix = length if prefix is None else prefix
    mask = golden[f"arch_masks/prefix.T{length}.P{prefix}"]
    assert np.array_equal(spec(architecture="prefix_decoder").visible(length, prefix), mask)
    if prefix == length:
        assert np.array_equal(spec(architecture="encoder").visible(length), mask)


MAPS = ["rope", "linear:factor=4", "rerope:window=5", "leaky_rerope:window=5,k=3", "self_extend:window=6,group=3"]


@pytest.mark.parametrize("name", MAPS)
def test_bidirectional_distances_are_antisymmetric_and_equal_the_causal_ones_in_the_past(name: str) -> None:
    both = spec(name, architecture="encoder").effective_distance(40)
    causal = spec(name).effective_distance(40)
    np.testing.assert_allclose(both, -both.T, atol=1e-12)
    past = ~np.isnan(causal)
    np.testing.assert_allclose(both[past], causal[past], atol=1e-12)


ALL = [*MAPS, "dual_chunk:chunk=7,max_position=10"]


@pytest.mark.parametrize("name", ALL)
def test_a_token_is_at_distance_0_of_itself_and_1_of_its_neighbour(name: str) -> None:
    distance = spec(name).effective_distance(60)
    assert (np.diagonal(distance) == 0).all()
    assert np.diagonal(distance, -1) == pytest.approx(0.25 if name.startswith("linear") else 1.0)


def test_near_pairs_are_exact() -> None:
    d = np.subtract.outer(np.arange(60), np.arange(60))
    for name, exact_up_to in (
        ("rerope:window=5", 5),
        ("leaky_rerope:window=5,k=3", 5),
        ("self_extend:window=6,group=3", 5),
    ):
        near = (d >= 0) & (d <= exact_up_to)
        np.testing.assert_allclose(spec(name).effective_distance(60)[near], d[near])
    near = (d >= 0) & (d <= 10 - 7 + 1)
    np.testing.assert_allclose(spec("dual_chunk:chunk=7,max_position=10").effective_distance(60)[near], d[near])


LIMITS = {
    "leaky k -> inf is rerope": ("leaky_rerope:window=6,k=1e9", "rerope:window=6", 1e-5),
    "leaky w = 0 is interpolation": ("leaky_rerope:window=0,k=4", "linear:factor=4", 1e-12),
    "leaky k = 1 is rope": ("leaky_rerope:window=9,k=1", "rope", 1e-12),
    "one group is rerope": ("self_extend:window=64,group=64", "rerope:window=64", 1e-12),
    "groups of one are rope": ("self_extend:window=6,group=1", "rope", 1e-12),
    "one chunk is rope": ("dual_chunk:chunk=99,max_position=99", "rope", 1e-12),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_limits(limit: str) -> None:
    one, other, tolerance = LIMITS[limit]
    length = 64 if "group=64" in one else 90
    ours, theirs = (spec(name).effective_distance(length) for name in (one, other))
    if "group=64" in one:  # G >= T: all far keys of the text are in one group, if a far pair exists
        ours, theirs = (
            spec(name, trained=16).effective_distance(128)
            for name in ("self_extend:window=128,group=128", "rerope:window=128")
        )
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_windows_without_sinks_are_sliding_windows() -> None:
    sliding = spec(window="sliding:size=8")
    for other in ("lm_infinite:size=8,sinks=0", "streaming:size=7,sinks=0"):
        np.testing.assert_array_equal(spec(window=other).effective_distance(40), sliding.effective_distance(40))
    np.testing.assert_array_equal(spec(window="sliding:size=99").effective_distance(40), spec().effective_distance(40))


def test_windows_change_no_distance_inside_them() -> None:
    for name in ALL:
        free = spec(name).effective_distance(40)
        for window in ("sliding:size=9", "streaming:size=8,sinks=2", "lm_infinite:size=9,sinks=2"):
            recent = np.subtract.outer(np.arange(40), np.arange(40))
            recent = (recent >= 0) & (recent < 9)
            np.testing.assert_allclose(spec(name, window).effective_distance(40)[recent], free[recent])


@pytest.mark.parametrize("position", ["rope", "rerope:window=4"])
def test_lm_infinite_without_its_cap_shows_the_same_keys_with_sinks_where_they_are(position: str) -> None:
    capped, bare = (
        spec(window=f"lm_infinite:size=8,sinks=2{option}", position=position) for option in ("", ",capped=False")
    )
    visible = capped.visible(30)
    np.testing.assert_array_equal(visible, bare.visible(30))
    np.testing.assert_array_equal(
        bare.effective_distance(30)[visible], spec(position=position).effective_distance(30)[visible]
    )


def test_lm_infinite_cuts_the_distance_of_recents_too() -> None:
    distance = spec(window="lm_infinite:size=8,sinks=2,ceiling=3").effective_distance(30)
    d = np.subtract.outer(np.arange(30), np.arange(30))
    seen = (d >= 0) & ((d < 8) | (np.arange(30)[None] < 2))
    np.testing.assert_array_equal(distance[seen], np.minimum(d, 3)[seen])
    assert np.isnan(distance[~seen]).all()
    both = spec(window="lm_infinite:size=8,sinks=0,ceiling=3", architecture="encoder").effective_distance(30)
    near = np.abs(d) < 8
    np.testing.assert_array_equal(both[near], np.clip(d, -3, 3)[near])


@pytest.mark.parametrize("prefix", ["windowed", "visible"])
def test_a_window_narrows_a_prefix_or_leaves_it(prefix: str) -> None:
    made = spec(architecture="prefix_decoder", window={"name": "sliding", "size": 4, "prefix": prefix})
    t, s = np.indices((20, 20))
    recent = np.abs(t - s) < 4
    expected = ((s <= t) & recent) | ((s < 7) & (recent if prefix == "windowed" else True))
    np.testing.assert_array_equal(made.visible(20, 7), expected)


# Settings for L = 512 evaluated at 4096: what the methods promise, and the two published ones that miss it.
SETTINGS = {
    ("rerope:window=256", "full"): 256,
    ("leaky_rerope:window=128", "full"): 511,
    ("leaky_rerope:window=128,k=16", "full"): 128 + 3967 / 16,
    ("self_extend:window=128,group=16", "full"): 375,
    ("self_extend:window=128,group=32", "full"): 251,
    ("dual_chunk:chunk=320,max_position=384", "full"): 384,
    ("dual_chunk", "full"): 511,
    ("rope", "streaming:sinks=4,size=507"): 511,
    ("rope", "lm_infinite"): 511,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_distances_stay_inside_training(setting: tuple[str, str]) -> None:
    made = spec(*setting, trained=512, target=4096)
    assert made.largest_distance(4096) == pytest.approx(SETTINGS[setting])
    assert made.out_of_design(4096) is None
    small = spec(*setting, trained=512, target=4096).effective_distance(700)
    assert made.largest_distance(700) == pytest.approx(np.nanmax(small))


def test_settings_that_leave_training_say_so() -> None:
    founding = spec({"name": "leaky_rerope", "window": 128, "k": (4096 - 128) / (512 - 128)}, trained=512)
    assert founding.largest_distance(4096) == pytest.approx(511.90, abs=0.005)
    assert "uses distance 511.903 at 4096; training saw 511" in founding.out_of_design(4096)
    authors = spec(window="lm_infinite:size=512", trained=512)
    assert authors.largest_distance(4096) == 512
    assert "uses distance 512 at 4096" in authors.out_of_design(4096)
    canary = spec("rerope:window=512", trained=512)
    assert "uses distance 512 at 1024" in canary.out_of_design(1024)
    assert canary.out_of_design(512) is None
    assert "stretched for 128 tokens and is used at 129" in spec("yarn:factor=2").out_of_design(129)
    assert spec("yarn:factor=2").out_of_design(128) is None
    assert spec("linear", trained=11, target=60).out_of_design(60) is None  # 60 / 11 times 11 rounds to less than 60
    prefix = spec(architecture="prefix_decoder", window="sliding:size=8,prefix=visible")
    assert prefix.largest_distance(100) == 99  # a visible prefix is as far as it is
    assert "training saw 63" in prefix.out_of_design(100)
    assert canary.out_of_design(1024, seen=2048) is None  # positions sampled from a longer range
    assert spec("rope").out_of_design(10**6) is None


def test_derived_values_are_spelled_out_and_can_be_given() -> None:
    shown = {
        "rerope": "rerope:window=256",
        "leaky_rerope:window=128": f"leaky_rerope:k={(4095 - 128) / (511 - 128)},window=128",
        "self_extend": "self_extend:group=32,window=128",
        "dual_chunk": "dual_chunk:chunk=384,max_position=511",
        "rerope:window=64,frequencies=ntk": "rerope:frequencies=ntk,frequencies.factor=8,window=64",
        "rerope:window=64,temperature=log_n": "rerope:temperature=log_n,temperature.length=512,window=64",
        "yarn": "yarn:factor=8",
        "truncated": "truncated:cutoff=512",
        "rope": "rope",
    }
    for given, canonical in shown.items():
        made = spec(given, trained=512, target=4096)
        assert made.position.method == canonical
        assert spec(canonical, trained=512, target=4096) == made  # canonical names build the same
    assert spec(window="streaming", trained=512).window == "streaming:size=507"


REFUSED = {
    "group=3 must divide window=8": dict(position="self_extend:group=3,window=8"),
    "dual_chunk has no distance for keys of a later chunk": dict(position="dual_chunk", architecture="encoder"),
    "dual_chunk has no distance for keys": dict(position="dual_chunk", architecture="prefix_decoder"),
    "xpos grows without bound": dict(position="xpos", architecture="prefix_decoder"),
    "xpos grows": dict(position="rerope:frequencies=xpos", architecture="encoder"),
    "nope sees a bag of words": dict(position="nope", architecture="encoder"),
    "window=0 must be 1 token or more": dict(position="rerope:window=0"),
    "k=0.0 must be above 0": dict(position="leaky_rerope:k=0"),
    "leaves no distance below 64": dict(position="leaky_rerope:window=63", target=128),
    "max_position=3 must be chunk - 1 = 4 or more": dict(position="dual_chunk:chunk=5,max_position=3"),
    "ceiling=9 must be in [1, size=8]": dict(window="lm_infinite:size=8,ceiling=9"),
    "is not used with capped=False": dict(window="lm_infinite:size=8,ceiling=4,capped=False"),
    "needs positions without an index map": dict(position="rerope", window="lm_infinite:size=8,ceiling=4"),
    "yarn has a temperature of its own": dict(position="yarn:temperature=yarn", target=128),
    "size=0 must be 1 or more": dict(window="sliding:size=0"),
    "sinks=-1 must not be negative": dict(window="streaming:sinks=-1"),
    "size=-1 must be 1 or more": dict(window="streaming", trained=4),
    "unknown temperature 'logn'": dict(position="rope:temperature=logn"),
    "comes before temperature=NAME": dict(position="rope:temperature.form=trained"),
    "must be a frequency map": dict(position="rerope:frequencies=alibi"),
    "make it even": dict(position="rerope", head_dim=7),
}


@pytest.mark.parametrize("message", REFUSED)
def test_impossible_combinations_are_refused_with_the_reason(message: str) -> None:
    with pytest.raises(UserError) as error:
        spec(**REFUSED[message])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_prefix_of_nope_is_remarked_upon() -> None:
    assert "without order" in spec("nope", architecture="prefix_decoder").out_of_design(10)


def test_may_meet_never_misses_a_pair() -> None:
    """Interval arithmetic against brute force, for random tiles and every kind of bound."""
    regions = [
        Region(),
        Region(distance=(3, None)),
        Region(distance=(None, 5), rank=(None, 4)),
        Region(block_size=5, block_distance=(1, 1)),
        Region(block_size=7, block_distance=(2, None), lag=(0, 30)),
        Region(lag=(-2, 2)),
    ]
    rng = np.random.default_rng(0)
    for _ in range(200):
        t, s = (np.sort(rng.integers(0, 40, 2)) for _ in range(2))
        shift = rng.integers(0, 9)
        index_t, index_s = np.arange(t[0], t[1] + 1)[:, None], np.arange(s[0], s[1] + 1)[None]
        pairs = Pairs.of((index_t + shift, index_s + shift), (index_t, index_s), (index_t, index_s))
        low, high = (Pairs(*(getattr(x, end)() for x in pairs[:6])) for end in ("min", "max"))
        for region in regions:
            assert region.may_meet(low, high) >= region.contains(pairs).any()


def test_a_region_of_two_holds_what_is_in_both() -> None:
    a, b = Region(distance=(2, None), lag=(0, 9)), Region(distance=(None, 7), rank=(None, 3), lag=(1, None))
    t, s = np.indices((20, 20))
    pairs = Pairs.of((t, s), (t, s), (t, s))
    assert np.array_equal((a & b).contains(pairs), a.contains(pairs) & b.contains(pairs))


def test_specs_are_hashable() -> None:
    assert hash(spec("rerope:window=8,frequencies=yarn,temperature=log_n")) == hash(
        spec({"name": "rerope", "window": 8, "frequencies": {"name": "yarn"}, "temperature": {"name": "log_n"}})
    )
    assert rope() == rope()
