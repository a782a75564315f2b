"""Check lmarch on this machine's accelerator: attention against an oracle, training steps, prefill, a resumed run.

  python -m benchmarks.gpu_check [--out=FILE.json] [--workers=8] [--seconds=320]        (make gpu-check)

At most six minutes on one GPU; where there is none the same in a tiny size, in seconds. Every measurement is a row of one
JSON file, default benchmarks/results/gpu-check-DEVICE-DATE.json, written after each: what fails or is skipped is a row too.
Exit status: 0 unless nothing could run.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lmarch.command_line import no_overrides, parse, parser, run, use_compilation_cache


def main(arguments: Sequence[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--out", type=Path, help="the JSON file")
    flags.add_argument(
        "--workers", type=int, help="programs compiled side by side (default: 8, or the cores there are)"
    )
    flags.add_argument("--seconds", type=float, help="after so many nothing new is begun (default: 320)")
    given, overrides = parse(flags, arguments)
    no_overrides(overrides)
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # the older name, which JAX does not take beside the new one
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.93")  # of a GPU that nobody else uses

    import jax

    from benchmarks.gpu_check.plan import GPU, TINY
    from benchmarks.gpu_check.record import default_out
    from benchmarks.gpu_check.run import check

    plan = GPU if jax.default_backend() == "gpu" else TINY
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        use_compilation_cache(cache)  # the runs of one part compile the same programs
        return check(plan, given.out or default_out(), given.seconds, given.workers)


if __name__ == "__main__":
    run(main, interrupted=f"stopped; {sys.argv[0]} wrote what was measured so far")
