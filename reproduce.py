"""Run a named experiment: train its models, compare them on the same targets, report.

  python reproduce.py --list
  python reproduce.py NAME [--tier=cpu|gpu] [--workdir=runs/experiments]

What was trained or measured before is used again. Exit status: 0 done, 2 a mistake in the input, 3 a value was not
finite, 128 + N stopped by signal N after saving.
"""

from collections.abc import Sequence
from pathlib import Path

from lmarch.command_line import parse, parser, run, use_compilation_cache
from lmarch.errors import UserError


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("name", nargs="?", metavar="NAME", help="an experiment of configs/experiments")
    flags.add_argument("--list", action="store_true", help="the experiments there are")
    flags.add_argument("--tier", default="cpu", metavar="NAME", help="how large: cpu or gpu")
    flags.add_argument("--workdir", default="runs/experiments", metavar="FOLDER", help="where models and reports go")
    given, overrides = parse(flags, arguments)

    from lmarch.experiment import experiment_names, load_experiment, reproduce

    if overrides:
        raise UserError(
            f"--config.{overrides[0][0]}: an experiment is what its file says; change that, or use train.py"
        )
    if given.list or given.name is None:
        print("\n".join(experiment_names()))
        return 0
    experiment = load_experiment(given.name, given.tier)
    use_compilation_cache(experiment.config(experiment.reference, experiment.seeds[0]).data.cache_dir)
    return reproduce(given.name, experiment, given.tier, Path(given.workdir))


if __name__ == "__main__":
    run(main)
