"""The exceptions a user may see: a single line that names the offending value and the fix."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message is one line: what was given, why it cannot be, what to write instead."""

    exit_status = 2


class MachineError(UserError):
    """What this machine does not allow, and another may: a full disk, a folder that another process holds."""


def require(ok: bool, what: str, value: object, rule: str) -> None:
    """Raise a UserError, `{what}={value} {rule}`, unless `ok`.

    Args:
      what: the name that the user gave the value by: `config.model.dim`, `rerope window`.
      rule: what the value must be, or what to do about it: `must be 1 token or more`.
    """
    if not ok:
        raise UserError(f"{what}={value} {rule}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest known name, else the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
