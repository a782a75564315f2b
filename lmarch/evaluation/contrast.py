"""Several models on the same targets: what each needs, and how much more or less than a reference one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmarch.evaluation.manifest import Manifest
from lmarch.evaluation.paired import Measured
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.statistics import bits_per_byte


def contrast_results(
    measured: Mapping[str, Sequence[Measured]], reference: str, manifest: Manifest, condition: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One flat row a model, in bits per byte; `difference` is the model minus the reference, seed by seed.

    Args:
      measured: of each model one entry a training seed, the same seeds for all.
      condition: what all of them were measured under: method, axis, length.
    """
    pairing = Pairing(manifest)
    nll_SD = {name: np.stack([pairing.per_document(m.nll_NS) for m in seeds]) for name, seeds in measured.items()}
    rows = []
    for name, own_SD in nll_SD.items():
        own_D, other_D = own_SD.mean(0), nll_SD[reference].mean(0)
        rows.append(
            {
                **condition,
                **pairing.facts(),
                "task": "contrast",
                "metric": "bpb",
                "model": name,
                "reference": reference,
                **pairing.value(own_D, "value", "ci"),
                **pairing.difference(own_D, other_D, "difference"),
                "seeds": len(own_SD),
                "seed_differences": [
                    bits_per_byte(a, pairing.bytes_D) - bits_per_byte(b, pairing.bytes_D)
                    for a, b in zip(own_SD, nll_SD[reference], strict=True)
                ],
                "n_nonfinite": int(sum((~np.isfinite(m.nll_NS)).sum() for m in measured[name])),
                "out_of_design": "; ".join(dict.fromkeys(m.out_of_design for m in measured[name] if m.out_of_design))
                or None,
            }
        )
    return rows
