"""Variants as text and as mappings: the two say the same, nested parameters included."""

import pytest

from lmarch.errors import UserError
from lmarch.registry import for_people, format_variant, parse_variant, split_variants

VARIANTS = {
    "rope": {"name": "rope"},
    "yarn:factor=8": {"name": "yarn", "factor": 8},
    "rerope:frequencies=ntk,frequencies.factor=8,window=64": {
        "name": "rerope",
        "window": 64,
        "frequencies": {"name": "ntk", "factor": 8},
    },
    "resonance:frequencies=power,frequencies.frequencies=linear,frequencies.frequencies.factor=2": {
        "name": "resonance",
        "frequencies": {"name": "power", "frequencies": {"name": "linear", "factor": 2}},
    },
    "longrope:long_factor=[1,2.5],short_factor=[1,1]": {
        "name": "longrope",
        "long_factor": [1, 2.5],
        "short_factor": [1, 1],
    },
    "rope:temperature=log_n,temperature.form=trained": {
        "name": "rope",
        "temperature": {"name": "log_n", "form": "trained"},
    },
}


@pytest.mark.parametrize("text", VARIANTS)
def test_text_and_mapping_are_two_forms_of_one_variant(text: str) -> None:
    assert parse_variant(text) == VARIANTS[text]
    assert format_variant(VARIANTS[text]) == text
    assert parse_variant(VARIANTS[text]) == VARIANTS[text]


def test_a_list_of_variants_is_cut_where_a_new_name_begins() -> None:
    assert split_variants(",".join(VARIANTS)) == tuple(VARIANTS)


def test_an_inner_variant_may_be_named_alone() -> None:
    assert parse_variant("rerope:frequencies=ntk")["frequencies"] == "ntk"
    assert format_variant({"name": "a", "b": None, "c": 1.0}) == "a:c=1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rerope:window", "cannot read 'window'"),
        ("rerope:frequencies.factor=8,frequencies=ntk", "comes before frequencies=NAME"),
        ("rerope:window=8,window.size=3", "comes before window=NAME"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_variant(text)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("leaky_rerope:k=15.222222222222221,window=64", "leaky_rerope:k=15.2,window=64"),
        ("yarn:factor=8 in streaming:size=123", "yarn:factor=8 in streaming:size=123"),
        ("3 x ntk:factor=12345.678 + 1 x nope", "3 x ntk:factor=12346 + 1 x nope"),
        ("longrope:long_factor=[1,0.0123456,1.5e-05]", "longrope:long_factor=[1,0.0123,1.5e-05]"),
    ],
)
def test_people_see_round_numbers(name: str, shown: str) -> None:
    assert for_people([name]) == {name: shown}


def test_names_that_would_look_the_same_are_shown_in_full() -> None:
    names = ["a:k=1.2345", "a:k=1.2349", "a:k=9.8765"]
    assert for_people(names) == {"a:k=1.2345": "a:k=1.2345", "a:k=1.2349": "a:k=1.2349", "a:k=9.8765": "a:k=9.88"}
