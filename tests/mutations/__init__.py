"""Small mistakes in the package, each with the tests that must notice: how much the suite sees, `python -m tests.mutations`."""
