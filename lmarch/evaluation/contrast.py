"""Several lines of one picture, models or ways to read one, on the same targets: each beside a reference one.

The interval of a difference is over training seeds and documents at once where there are several seeds; the one over documents
alone stands beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmarch.evaluation.measuring import Measured
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.statistics import Interval, ratio


def shared(origins: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Where several measurements are from: of each entry the values there are, once each."""
    return {key: "; ".join(dict.fromkeys(str(origin[key]) for origin in origins)) for key in origins[0]}


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
            other_SD = totals_SD[reference]
            by_document = pairing.difference(own_SD.mean(0), other_SD.mean(0), "documents")
            over_both = pairing.over_both(own_SD, other_SD).interval()
            bounds = (
                over_both if len(own_SD) > 1 else Interval(by_document["documents_low"], by_document["documents_high"])
            )
            rows.append(
                {
                    **condition,
                    **pairing.facts(),
                    "task": "contrast",
                    "metric": metric,
                    "line": line,
                    "reference": reference,
                    **pairing.value(own_SD.mean(0), "value", "ci"),
                    "difference": by_document.pop("documents"),
                    "difference_low": bounds.low,
                    "difference_high": bounds.high,
                    **by_document,
                    "seeds": len(own_SD),
                    "seed_differences": [
                        ratio(a, pairing.sizes_D) - ratio(b, pairing.sizes_D)
                        for a, b in zip(own_SD, other_SD, strict=True)
                    ],
                    **shared([m.origin for m in measured[line]]),
                    "n_nonfinite": int(sum((~np.isfinite(m.scores.nll_NS)).sum() for m in measured[line])),
                    "out_of_design": "; ".join(
                        dict.fromkeys(m.out_of_design for m in measured[line] if m.out_of_design)
                    )
                    or None,
                }
            )
    return rows
