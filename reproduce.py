"""`lmarch reproduce`, from a checkout."""

from lmarch.commands import run

run("reproduce")
