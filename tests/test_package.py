"""The package as a whole: imports run one way, cost little, and start no device."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lmarch

PACKAGE = Path(lmarch.__file__).parent

# A room may import those before it. `loading` (lmarch.load) reads checkpoints for evaluation.
ORDER = [
    {
        "errors",
        "typed",
        "registry",
        "shipped",
        "durable",
        "provenance",
        "lock",
        "config",
        "config_files",
        "command_line",
        "arrays",
        "branches",
    },
    {"positions", "visibility"},
    {"attention"},
    {"models"},
    {"objectives"},
    {"tasks"},
    {"data"},
    {"training"},
    {"generation"},
    {"loading"},
    {"evaluation"},
    {"reporting"},
    {"experiments"},
    {"sweeping"},
    {"commands"},
]


def imports(file: Path) -> set[str]:
    """The rooms of lmarch that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lmarch."):
            found.add(node.module.split(".")[1])
    return found


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert rooms - {"__init__", "__main__", "configs"} == set().union(*ORDER)


@pytest.mark.parametrize("level", range(len(ORDER)))
def test_imports_run_one_way(level: int) -> None:
    allowed = set().union(*ORDER[: level + 1])
    if level == 1:
        allowed -= {"positions", "visibility"}  # they do not know each other
    for room in ORDER[level]:
        files = (PACKAGE / room).rglob("*.py") if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
        for file in files:
            assert imports(file) <= allowed | {room}, file


def test_evaluation_never_imports_the_loop() -> None:
    for file in [*(PACKAGE / "evaluation").rglob("*.py"), PACKAGE / "loading.py"]:
        assert "training.loop" not in file.read_text()


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_lmarch_starts_no_device_and_imports_nothing_heavy() -> None:
    code = "import sys, lmarch; print([m for m in ('jax', 'tensorflow', 'torch', 'matplotlib') if m in sys.modules])"
    assert run(code).strip() == "[]"
    code = (
        "import sys, lmarch; lmarch.attend, lmarch.attention_spec, lmarch.load\n"
        "from jax._src import xla_bridge\n"
        "heavy = ('tensorflow', 'torch', 'matplotlib', 'pandas')\n"
        "print([m for m in heavy if m in sys.modules], xla_bridge.backends_are_initialized())"
    )
    assert run(code).strip() == "[] False"


def test_an_unknown_name_lists_the_public_ones() -> None:
    with pytest.raises(AttributeError, match="attend, attention_spec, load, results"):
        _ = lmarch.atend  # type: ignore[attr-defined]


def test_every_module_says_what_it_is_for() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text())), file


def test_ctrl_c_that_a_finalizer_catches_still_stops_a_command() -> None:
    code = """
import signal, time
from lmarch.command_line import run

class Dies:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def main(arguments):
    Dies()
    for _ in range(100):  # what comes in place of a signal does not end a sleep
        time.sleep(0.1)
    return 0

run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "stopped at once; the same command goes on from what was saved\n"
