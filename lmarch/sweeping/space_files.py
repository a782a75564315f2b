"""Space files: `configs/sweeps/NAME.py`, or one of a user's, with a `get_space(arg)`."""

from lmarch.config_files import load_definition
from lmarch.errors import UserError
from lmarch.shipped import SPACES
from lmarch.sweeping.space import Space


def load_space(source: str) -> Space:
    """The space of `NAME[:ARGUMENTS]` or `PATH.py[:ARGUMENTS]`.

    Raises:
      UserError: no such file, no `get_space` in it, or a space that cannot be.
    """
    path, _, argument = source.partition(":")
    get_space = load_definition(path, "space", "get_space", SPACES)
    try:
        made = get_space(argument)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(made, Space):
        raise UserError(f"get_space of {path} returned a {type(made).__name__}: it must return a Space")
    return made
