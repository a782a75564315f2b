"""What travels with lmarch, in a checkout and in a wheel: configs, spaces, experiments, stored results.

In a checkout `lmarch/configs` and `lmarch/results` are links to the folders at its top; a wheel holds the files themselves.
Either way `lmarch.configs.parts` can be imported, and a file is found by its name from any folder.
"""

from pathlib import Path

PACKAGE = Path(__file__).parent
CONFIGS = PACKAGE / "configs"
SPACES = CONFIGS / "sweeps"
EXPERIMENTS = CONFIGS / "experiments"
RESULTS = PACKAGE / "results"


def names(folder: Path) -> list[str]:
    """The names of the files of a folder, without `.py`."""
    return sorted(file.stem for file in folder.glob("*.py"))


def checkout() -> Path | None:
    """The folder with lmarch's sources and scripts, if this code runs from it; None where a wheel was installed."""
    top = PACKAGE.parent
    return top if (top / "pyproject.toml").is_file() and (top / "sweep.py").is_file() else None
