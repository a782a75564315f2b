"""`python -m lmarch VERB`, which is `lmarch VERB` where no script is installed."""

from lmarch.commands import main

main()
