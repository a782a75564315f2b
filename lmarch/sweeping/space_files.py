"""Space files: `configs/sweeps/NAME.py[:ARGUMENTS]` with a `get_space(arg)`."""

import importlib.util
from pathlib import Path

from lmarch.errors import UserError, nearest
from lmarch.sweeping.space import Space

FOLDER = Path("configs/sweeps")


def load_space(source: str) -> Space:
    """Raises UserError: no such file, no `get_space` in it, or a space that cannot be."""
    path, _, argument = source.partition(":")
    file = Path(path)
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else FOLDER
        raise UserError(f"no space file {path!r}; {nearest(path, (str(p) for p in folder.glob('*.py')))}")
    spec = importlib.util.spec_from_file_location(f"lmarch_space_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_space"):
            raise UserError("it defines no get_space(arg)")
        made = module.get_space(argument)
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno} is not Python: {error.msg}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(made, Space):
        raise UserError(f"get_space of {path} returned a {type(made).__name__}: it must return a Space")
    return made
