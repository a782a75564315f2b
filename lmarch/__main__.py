"""`python -m lmarch VERB`, which is `lmarch VERB` where no script is installed."""

from lmarch.commands import main

if __name__ == "__main__":  # not where a process that feeds batches imports it
    main()
