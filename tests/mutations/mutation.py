"""A mutation: one line of the package, written as a careful colleague could have got it wrong."""

import dataclasses
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = Path(__file__).parent / "rooms"


@dataclasses.dataclass(frozen=True)
class Mutation:
    name: str  # says the mistake
    file: str  # below lmarch/
    old: str  # stands once in the file, within a line
    new: str
    tests: tuple[str, ...]  # below tests/: files, or FILE::FUNCTION
    slow: bool = False  # whether only slow tests can notice it
    why: str = ""  # it is a mistake, where that is not obvious

    @property
    def room(self) -> str:
        return self.file.partition("/")[0].removesuffix(".py")

    @property
    def node_ids(self) -> list[str]:
        """The tests as pytest takes them in the root of a tree."""
        return [f"tests/{test}" for test in self.tests]

    def source(self, tree: Path) -> Path:
        return tree / "lmarch" / self.file

    def mutated(self, text: str) -> str:
        """The file's text with the mistake; ValueError unless the old text stands in it exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} stands {text.count(self.old)} times in lmarch/{self.file}")
        return text.replace(self.old, self.new)


def catalogue() -> list[Mutation]:
    """All of them, room by room."""
    return [
        Mutation(name, **{**entry, "tests": tuple(entry["tests"])})
        for file in sorted(ROOMS.glob("*.toml"))
        for name, entry in tomllib.loads(file.read_text(encoding="utf-8")).items()
    ]
