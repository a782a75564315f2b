"""`lmarch sweep`, from a checkout."""

from lmarch.commands import run

run("sweep")
