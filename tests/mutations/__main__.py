"""python -m tests.mutations [NAME ...] [--workers=2] [--list]

Makes each mistake in a copy of the tree and runs the tests that should notice it. Red: they do. GREEN: the mistake survives.
Before that all of these tests must pass without any mistake. Exit status: 0 if all are red, 1 if not, 2 if nothing was told.
"""

import argparse
import collections
import concurrent.futures
import os
import queue
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.mutation import ROOT, Mutation, catalogue
from tests.mutations.tree import FAILED, PASSED, Outcome, Tree

LIMIT = 600.0  # seconds


class Workers:
    """Copies of the tree, each of which has one thing to do at a time."""

    def __init__(self, count: int, folder: Path) -> None:
        compiled = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or ROOT / ".cache" / "xla-tests")
        self._trees = [Tree(folder / str(number), compiled) for number in range(count)]
        self._free: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for tree in self._trees:
            self._free.put(tree)

    def each(self, do, things: Sequence) -> list[Outcome]:
        """`do(tree, thing)` for each of them, in whichever tree is free."""

        def one(thing) -> Outcome:
            tree = self._free.get()
            try:
                return do(tree, thing)
            finally:
                self._free.put(tree)

        with concurrent.futures.ThreadPoolExecutor(len(self._trees)) as pool:
            try:
                return list(pool.map(one, things))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for tree in self._trees:
                    tree.stop()
                raise


def main(arguments: Sequence[str]) -> int:
    flags = argparse.ArgumentParser(
        prog="python -m tests.mutations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("names", nargs="*", metavar="NAME", help="of mutations, or of rooms; default: all")
    flags.add_argument("--workers", type=int, default=2, help="how many copies of the tree are tested at once")
    flags.add_argument("--list", action="store_true", help="only say which there are")
    given = flags.parse_args(arguments)
    mutations = [one for one in catalogue() if not given.names or {one.name, one.room} & set(given.names)]
    unknown = set(given.names) - {name for one in mutations for name in (one.name, one.room)}
    if unknown:
        flags.error(f"no mutation or room {', '.join(sorted(unknown))}: --list says which there are")
    if given.list:
        return tell_all(mutations)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lmarch-mutations-") as folder:
        workers = Workers(given.workers, Path(folder).resolve())
        if not pass_without(mutations, workers):
            return 2
        outcomes = workers.each(judge, mutations)
    return tell(mutations, outcomes, time.monotonic() - began)


def tell_all(mutations: Sequence[Mutation]) -> int:
    for one in mutations:
        print(f"{one.name}{f' ({one.why})' if one.why else ''}")
        print(f"    lmarch/{one.file}\n        {one.old.strip()}\n        {one.new.strip()}")
        print(*(f"    {test}" for test in one.node_ids), sep="\n")
    rooms = collections.Counter(one.room for one in mutations)
    print(f"{len(mutations)} mutations: {', '.join(f'{room} {count}' for room, count in sorted(rooms.items()))}")
    return 0


def pass_without(mutations: Sequence[Mutation], workers: Workers) -> bool:
    """Whether the tests of all mutations pass in a tree without any."""
    files: dict[tuple[str, bool], dict[str, None]] = {}
    for one in mutations:
        for test in one.node_ids:
            files.setdefault((test.partition("::")[0], one.slow), {})[test] = None

    def run(tree: Tree, file: tuple[str, bool]) -> Outcome:
        text = (tree.folder / file[0]).read_text(encoding="utf-8")
        tests = sorted(
            files[file], key=lambda test: text.find(f"def {test.partition('::')[2]}(")
        )  # as they stand there
        outcome = tree.run(tests, LIMIT, slow=file[1])
        word = "pass" if outcome.status == PASSED else "do NOT PASS"
        print(f"{outcome.seconds:7.1f} s  without a mutation {word}: tests of {file[0]}", flush=True)
        if outcome.status != PASSED:
            print("\n".join(outcome.failed) or outcome.output or f"they took more than {LIMIT:.0f} s", flush=True)
        return outcome

    return all(one.status == PASSED for one in workers.each(run, list(files)))


def judge(tree: Tree, mutation: Mutation) -> Outcome:
    with tree.mutated(mutation):
        outcome = tree.run(mutation.node_ids, LIMIT, "-x", slow=mutation.slow)
    word = "GREEN" if outcome.status == PASSED else "red" if outcome.status == FAILED else "ERROR"
    by = outcome.failed[0][:160] if word == "red" and outcome.failed else ""
    print(f"{outcome.seconds:7.1f} s  {word:<5}  {mutation.name}  {by}", flush=True)
    if word == "ERROR":
        print(outcome.output[-2000:] or f"    its tests took more than {LIMIT:.0f} s", flush=True)
    return outcome


def tell(mutations: Sequence[Mutation], outcomes: Sequence[Outcome], seconds: float) -> int:
    """The survivors, and what could not be judged; the exit status."""
    red = sum(one.status == FAILED for one in outcomes)
    print(f"{red} of {len(mutations)} mutations are red, in {seconds:.0f} s")
    for mutation, outcome in zip(mutations, outcomes, strict=True):
        if outcome.status != FAILED:
            what = "SURVIVED" if outcome.status == PASSED else "could not be judged"
            print(f"{what}: {mutation.name} (lmarch/{mutation.file}): {', '.join(mutation.node_ids)}")
    return 0 if red == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
