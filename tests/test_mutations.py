"""The mutations still apply: their old text stands in the package once, and the tests that should notice are there."""

import ast
import functools
import re

from tests.mutations.mutation import ROOT, catalogue

ALL = catalogue()


@functools.cache
def functions_of(file: str) -> set[str]:
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    return {one.name for one in body if isinstance(one, ast.FunctionDef)}


def test_a_mutation_is_one_line_that_stands_once_and_stays_python() -> None:
    for mutation in ALL:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", mutation.name)
        assert "\n" not in mutation.old + mutation.new, mutation.name
        assert mutation.new != mutation.old, mutation.name
        ast.parse(mutation.mutated(mutation.source(ROOT).read_text(encoding="utf-8")))


def test_the_tests_that_should_notice_a_mutation_are_there() -> None:
    for mutation in ALL:
        assert mutation.tests, mutation.name
        for test in mutation.node_ids:
            file, _, function = test.partition("::")
            assert not function or function in functions_of(file), (mutation.name, test)


def test_every_room_has_mutations_and_every_mutation_a_name_of_its_own() -> None:
    assert len({one.name for one in ALL}) == len(ALL) >= 60
    rooms = {path.stem for path in (ROOT / "lmarch").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= {one.room for one in ALL}
