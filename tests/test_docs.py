"""Documents made from the code say what the code says."""

import sys
from pathlib import Path

from lmarch.attention.selection import SELECTIONS
from lmarch.positions import POSITIONS
from lmarch.training.optimizers import OPTIMIZERS
from lmarch.visibility import WINDOWS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_tables_are_those_of_the_registries() -> None:
    sys.path.insert(0, str(DOCS))
    from make_tables import document, made_of_results, optimizers_document, windows_document

    for file, made, names in (
        ("positions.md", document(), POSITIONS),
        ("windows.md", windows_document(), [*WINDOWS, *SELECTIONS]),
        ("optimizers.md", optimizers_document(), OPTIMIZERS),
        ("results.md", made_of_results(), []),
    ):
        assert (DOCS / file).read_text(encoding="utf-8") == made, "run python docs/make_tables.py"
        assert all(f"| `{name}`" in made for name in names)


def test_the_worked_row_is_what_the_feed_makes() -> None:
    sys.path.insert(0, str(DOCS))
    from worked_row import DOCUMENT, document

    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run python docs/worked_row.py"
