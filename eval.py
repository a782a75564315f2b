"""`lmarch eval`, from a checkout."""

from lmarch.commands import run

run("eval")
