"""`lmarch generate`, from a checkout."""

from lmarch.commands import run

if __name__ == "__main__":  # not where a process that feeds batches imports it
    run("generate")
