"""Where a number is from: the code that computes it, told from what only people read, and the commit with its changes."""

import subprocess
from pathlib import Path

import pytest

from lmarch import provenance
from lmarch.provenance import MODEL, SCORING, TRAINING, code_digest, git_commit

CODE = '''
"""What it is for."""

def f(x: int) -> int:
    """Says it."""
    return x + 1  # why
'''


@pytest.fixture
def digest_of(tmp_path: Path, monkeypatch):
    """The digest of a package that is this one file."""
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)

    def of(code: str) -> str:
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "one" / "a.py").write_text(code)
        return code_digest.__wrapped__(("one",))

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [("x + 1", "x - 1"), ("x + 1", "x + 1.0"), ("def f", "def g"), ("(x: int)", "(x: int = 2)"), ("return ", "yield ")],
)
def test_whatever_can_change_a_result_changes_the_digest(old: str, new: str, digest_of) -> None:
    assert digest_of(CODE) != digest_of(CODE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"), [("Says it.", "Says it well."), ("# why", "# because"), ("x + 1  ", "x  +  1  ")]
)
def test_what_only_people_read_does_not(old: str, new: str, digest_of) -> None:
    assert digest_of(CODE) == digest_of(CODE.replace(old, new))


def test_statements_do_not_run_into_each_other(digest_of) -> None:
    assert digest_of("if a:\n    b\n    c\n") != digest_of("if a:\n    b\nc\n")
    assert digest_of("f('a', 'b')") != digest_of("f('ab', '')")


def test_a_file_that_moves_is_other_code(digest_of, tmp_path: Path) -> None:
    before = digest_of(CODE)
    (tmp_path / "one" / "a.py").rename(tmp_path / "one" / "b.py")
    assert code_digest.__wrapped__(("one",)) != before


def test_every_part_that_is_named_is_there() -> None:
    for part in {*SCORING, *TRAINING}:
        assert (provenance.PACKAGE / part).exists(), part
    assert set(MODEL) <= set(SCORING) & set(TRAINING)


def test_changes_of_the_tree_are_part_of_the_commit(tmp_path: Path, monkeypatch) -> None:
    """Two different modified trees are told apart, and a clean one is its commit alone."""
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    file = tmp_path / "a.py"
    file.write_text("one\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = git_commit()
    assert clean is not None
    assert "+" not in clean
    file.write_text("two\n")
    two = git_commit()
    file.write_text("three\n")
    three = git_commit()
    (tmp_path / "new.py").write_text("four\n")
    four = git_commit()
    assert len({clean, two, three, four}) == 4
    assert all(changed.startswith(f"{clean}+changes:") for changed in (two, three, four))
