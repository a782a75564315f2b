"""The package as a whole: imports run one way, cost little, and start no device."""

import ast
import graphlib
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
        "content",
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


MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for room in set().union(*ORDER)
    for file in ([PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else (PACKAGE / room).rglob("*.py"))
}


def imports(of: ast.AST) -> set[str]:
    """The modules of lmarch that some code imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(of):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found & MODULES.keys()


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert rooms - {"__init__", "__main__", "configs"} == set().union(*ORDER)


@pytest.mark.parametrize("level", range(len(ORDER)))
def test_imports_run_one_way(level: int) -> None:
    allowed = set().union(*ORDER[: level + 1])
    if level == 1:
        allowed -= {"positions", "visibility"}  # they do not know each other
    for module in MODULES:
        room = module.split(".")[1]
        if room in ORDER[level]:
            assert {name.split(".")[1] for name in imports(tree(module))} <= allowed | {room}, module


def test_no_module_imports_one_that_imports_it() -> None:
    """Nor one that comes back to it over others, in the same room or not, wherever the import stands."""
    arrows = {module: imports(tree(module)) - {module} for module in MODULES}
    assert len(arrows) > 150
    assert set(graphlib.TopologicalSorter(arrows).static_order()) == MODULES.keys()


def test_an_import_inside_a_function_says_why_it_is_there() -> None:
    """In `commands`, the room says it for all."""
    for module, file in MODULES.items():
        lines = file.read_text().splitlines()
        for function in (node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom) and imports(node) and ".commands." not in module:
                    assert "  # " in lines[node.lineno - 1], f"{module}:{node.lineno}"


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
