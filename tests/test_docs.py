"""Documents made from the code say what the code says."""

import sys
from pathlib import Path

from lmarch.positions import POSITIONS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_positions_is_that_of_the_registry() -> None:
    sys.path.insert(0, str(DOCS))
    from make_positions import document

    assert (DOCS / "positions.md").read_text(encoding="utf-8") == document(), "run python docs/make_positions.py"
    assert all(f"| `{name}`" in document() for name in POSITIONS)
