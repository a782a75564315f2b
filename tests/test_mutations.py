"""The mutations still apply: their old text stands in the package once, and the tests that should notice are there."""

import ast
import re

import pytest

from tests.mutations.mutation import ROOT, Mutation, catalogue

ALL = catalogue()


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.name)
def test_a_mutation_is_one_line_that_stands_once_and_stays_python(mutation: Mutation) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", mutation.name)
    assert "\n" not in mutation.old + mutation.new
    made = mutation.mutated(mutation.source(ROOT).read_text(encoding="utf-8"))
    assert mutation.new != mutation.old
    ast.parse(made)


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.name)
def test_the_tests_that_should_notice_a_mutation_are_there(mutation: Mutation) -> None:
    assert mutation.tests
    for test in mutation.node_ids:
        file, _, function = test.partition("::")
        functions = {one.name for one in ast.parse((ROOT / file).read_text(encoding="utf-8")).body if hasattr(one, "name")}
        assert function in {"", *functions}, test


def test_every_room_has_mutations_and_every_mutation_a_name_of_its_own() -> None:
    assert len({one.name for one in ALL}) == len(ALL) >= 60
    rooms = {path.stem for path in (ROOT / "lmarch").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= {one.room for one in ALL}
