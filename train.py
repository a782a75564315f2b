"""`lmarch train`, from a checkout."""

from lmarch.commands import run

run("train")
