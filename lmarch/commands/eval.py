"""Measure how a trained model extrapolates: the same target tokens, read with shorter and longer contexts.

  lmarch eval --workdir=runs/a [--suite=smoke|cpu|full] [--lengths=128,256,512] [--methods=rope,linear,ntk:factor=4]
                 [--windows=full,streaming:sinks=4] [--selections=all,infllm:local=64] [--axes=prefix,continuation,both]
                 [--parts=paired,far_copies] [--tasks=copy,needle:keys=4] [--average] [--final]

Without a flag the run's config decides. Writes tables, figures and report.html into WORKDIR/eval/SUITE; what is
already measured for the same checkpoint and targets by the same code is not measured again, and what an evaluation with other
flags left there is kept in the folder `earlier`. Text of the validation split is read; --final reads the test split, into
WORKDIR/eval/SUITE-test, and notes that it did. Exit status: 0 done, 2 a mistake in the
input, 3 a value was not finite.
"""

from collections.abc import Sequence

from lmarch.command_line import folder, parse, parser, use_compilation_cache

# Flags that are fields of config.eval.
NAMES = ("suite", "lengths", "methods", "windows", "selections", "axes", "parts", "tasks")


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__, config=True)
    flags.add_argument("--workdir", type=folder, required=True, metavar="FOLDER", help="a run of lmarch train")
    flags.add_argument("--suite", metavar="NAME", help="how much is measured: smoke, cpu or full")
    flags.add_argument("--lengths", metavar="W,W,...", help="window lengths in tokens")
    flags.add_argument(
        "--methods",
        metavar="NAME,NAME:PARAMETER=VALUE,...",
        help="position methods on the same weights; NAME in WINDOW: in a window of its own",
    )
    flags.add_argument("--windows", metavar="NAME,...", help="context windows, each for every method")
    flags.add_argument(
        "--selections", metavar="NAME,...", help="token selections, each for every method; all: none is made"
    )
    flags.add_argument("--axes", metavar="NAME,...", help="sides a context grows along: prefix, continuation, both")
    flags.add_argument("--parts", metavar="NAME,...", help="what is measured, instead of what the suite has")
    flags.add_argument("--tasks", metavar="NAME,NAME:PARAMETER=VALUE,...", help="synthetic tasks to ask")
    flags.add_argument("--average", action="store_true", help="the moving average of the weights, not the last ones")
    flags.add_argument(
        "--final",
        action="store_true",
        help="read test text, once what is measured is to be published; without, validation text is read",
    )
    flags.add_argument("--step", type=int, metavar="N", help="which checkpoint (default: the latest)")
    given, overrides = parse(flags, arguments)

    from lmarch.loading import load
    from lmarch.reporting.report import evaluate_and_report

    model = load(given.workdir, step=given.step, average=given.average)
    use_compilation_cache(model.config.data.cache_dir)
    flag_overrides = [(f"eval.{name}", getattr(given, name)) for name in NAMES]
    chosen = [(key, value) for key, value in flag_overrides if value is not None]
    chosen += [("eval.split", "test")] if given.final else []
    return evaluate_and_report(model, [*overrides, *chosen])
