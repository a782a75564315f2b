"""Several lines of one picture, models or ways to read one, on the same targets: each beside a reference one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmarch.evaluation.measuring import Measured
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.statistics import ratio


def contrast_results(
    measured: Mapping[str, Sequence[Measured]], reference: str, condition: Mapping[str, Any], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """One flat row a line and metric; `difference` is the line minus the reference, seed by seed.

    Args:
      measured: of each line one entry a training seed, the same seeds for all.
      condition: what all of them were measured under: group, axis, length.
      metrics: of METRICS.
    """
    rows = []
    for metric in metrics:
        pairing = Pairing(measured[reference][0].items, metric)
        totals_SD = {
            line: np.stack([pairing.per_document(m.scores) for m in seeds]) for line, seeds in measured.items()
        }
        for line, own_SD in totals_SD.items():
            own_D, other_D = own_SD.mean(0), totals_SD[reference].mean(0)
            rows.append(
                {
                    **condition,
                    **pairing.facts(),
                    "task": "contrast",
                    "metric": metric,
                    "line": line,
                    "reference": reference,
                    **pairing.value(own_D, "value", "ci"),
                    **pairing.difference(own_D, other_D, "difference"),
                    "seeds": len(own_SD),
                    "seed_differences": [
                        ratio(a, pairing.sizes_D) - ratio(b, pairing.sizes_D)
                        for a, b in zip(own_SD, totals_SD[reference], strict=True)
                    ],
                    "n_nonfinite": int(sum((~np.isfinite(m.scores.nll_NS)).sum() for m in measured[line])),
                    "out_of_design": "; ".join(
                        dict.fromkeys(m.out_of_design for m in measured[line] if m.out_of_design)
                    )
                    or None,
                }
            )
    return rows
