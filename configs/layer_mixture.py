"""Three layers of RoPE in a sliding window, then one of NoPE that sees everything (RNoPE-SWA, arXiv 2501.18795).

  lmarch train --config=layer_mixture --workdir=runs/mixture
  lmarch eval --workdir=runs/mixture

The size and cost of configs/causal_decoder.py:size=tiny (0.8M parameters). The layers that name their own position keep
it when an evaluation tries other methods; the others change.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    config = ConfigDict()
    config.data = dict(corpus="sotu", tokenizer="bytes", batch_rows=32)
    config.model = dict(
        architecture="causal_decoder",
        trained_length=128,
        num_layers=4,
        dim=128,
        num_heads=4,
        position=dict(name="rope"),
        layers=(
            *[dict(window=dict(name="sliding", size=32))] * 3,
            dict(position=dict(name="nope", temperature=dict(name="log_n", form="trained"))),
        ),
    )
    config.train = dict(steps=800, warmup_steps=40, eval_steps=200, checkpoint_steps=200, learning_rate=3e-3)
    return config
