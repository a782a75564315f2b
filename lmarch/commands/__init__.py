"""The verbs of `lmarch`: a module each, whose docstring is its help and whose `main(arguments)` does the work.

What does the work is imported inside `main`: help and refused flags answer at once, without waiting for JAX or Matplotlib.
"""

import importlib
import sys
from typing import NoReturn

import lmarch
from lmarch.command_line import INTERRUPTED
from lmarch.command_line import run as run_command
from lmarch.errors import UserError, nearest

VERBS = {
    "train": "train a model from a config",
    "eval": "measure how a trained model extrapolates",
    "generate": "write on from a prompt",
    "sweep": "sweep hyper-parameters, on one machine or on many",
    "reproduce": "run a named experiment and judge what was published",
    "show": "draw what a position method and a window do",
}


def main() -> NoReturn:
    """The `lmarch` command: `lmarch VERB [FLAGS]`."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in VERBS:
        del sys.argv[1]
        run(verb)
    if verb in ("-h", "--help"):
        print("lmarch VERB [FLAGS]     lmarch VERB --help says more\n")
        print("\n".join(f"  {name:<10} {meaning}" for name, meaning in VERBS.items()))
        sys.exit(0)
    if verb in ("-V", "--version"):
        print(f"lmarch {lmarch.__version__}")
        sys.exit(0)
    print(f"lmarch: unknown verb {verb!r}; {nearest(verb, VERBS)}", file=sys.stderr)
    sys.exit(UserError.exit_status)


def run(verb: str) -> NoReturn:
    """Runs one verb with the arguments of the process, however it was started."""
    sys.argv[0] = f"lmarch {verb}"  # what messages and the record of a run call it
    module = importlib.import_module(f"lmarch.commands.{verb}")
    run_command(module.main, getattr(module, "INTERRUPTED", INTERRUPTED))
