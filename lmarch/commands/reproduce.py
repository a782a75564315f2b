"""Run a named experiment: train its models, compare them on the same targets, judge what was published, report.

  lmarch reproduce --list
  lmarch reproduce NAME [--tier=cpu|gpu] [--workdir=runs/experiments] [--final [--publish]]
  lmarch reproduce NAME [--tier=cpu|gpu] --freeze

What was trained or measured before by the same code is used again. Validation text is read, on which settings may be chosen.
Then --freeze notes the settings, --final reads test text, and --publish stores the small results. Exit status: 0 done, 2 a
mistake in the input, 3 a value was not finite, 128 + N stopped by signal N after saving.
"""

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmarch.command_line import folder, parse, parser, use_compilation_cache
from lmarch.errors import UserError

if TYPE_CHECKING:
    from lmarch.data.documents import Split
    from lmarch.experiments.publishing import Stored


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("name", nargs="?", metavar="NAME", help="an experiment of configs/experiments")
    flags.add_argument("--list", action="store_true", help="the experiments there are: source, cost, last verdicts")
    flags.add_argument("--tier", default="cpu", metavar="NAME", help="how large: cpu or gpu")
    flags.add_argument(
        "--workdir", type=folder, default="runs/experiments", metavar="FOLDER", help="of models and reports"
    )
    flags.add_argument(
        "--freeze", action="store_true", help="note the settings, before test text is read for the first time"
    )
    flags.add_argument("--final", action="store_true", help="read test text, not validation text")
    flags.add_argument(
        "--publish", action="store_true", help="store the small results of test text in results/ as well"
    )
    given, overrides = parse(flags, arguments)

    from lmarch.experiments.definition import load_experiment
    from lmarch.experiments.publishing import clean_commit, freeze
    from lmarch.experiments.reproduce import reproduce

    if overrides:
        raise UserError(
            f"--config.{overrides[0][0]}: an experiment is what its file says; change that, or use lmarch train"
        )
    if given.list or given.name is None:
        _list()
        return 0
    if given.publish and not given.final:
        raise UserError("--publish stores results of test text: add --final, once nothing is left to choose")
    if given.publish:
        clean_commit("--publish")
    experiment = load_experiment(given.name, given.tier)
    if given.freeze:
        print(f"frozen in {freeze(given.name, given.tier, experiment)}: commit that, then --final --publish")
        return 0
    use_compilation_cache(experiment.config(next(experiment.trainings())).data.cache_dir)
    split: Split = "test" if given.final else "validation"
    return reproduce(given.name, experiment, given.tier, given.workdir, split, publishing=given.publish)


def _list() -> None:
    from lmarch.experiments.definition import experiment_names, tiers_of
    from lmarch.experiments.publishing import stored_results

    stored = stored_results()
    for name in experiment_names():
        tiers = tiers_of(name)
        one = next(iter(tiers.values()))
        print(f"{name}: {one.question}\n  published: {one.source}")
        for tier, experiment in tiers.items():
            print(f"  {tier}: {experiment.cost}; {last_status(stored.get((name, tier)))}")


def last_status(stored: "Stored | None") -> str:
    """What the stored results came to."""
    from lmarch.evaluation.claims import RULE_NUMBER, STATUSES

    if stored is None:
        return "no stored results"
    verdicts = collections.Counter(row["status"] for row in stored.verdicts)
    counts = ", ".join(f"{verdicts[status]} {status}" for status in STATUSES if verdicts[status]) or "no claims"
    again = "" if stored.record.get("rule") == RULE_NUMBER else ", by an earlier rule: to be measured again"
    return f"{counts} on {stored.record['started'][:10]}{again}"
