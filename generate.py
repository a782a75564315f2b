"""`lmarch generate`, from a checkout."""

from lmarch.commands import run

run("generate")
