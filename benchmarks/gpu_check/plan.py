"""What is checked, in which sizes: `GPU`, and `TINY` for a device that is none, where it takes seconds."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class AttentionPlan:
    cases: tuple[str, ...]  # of attention.CASES
    arithmetic: tuple[str, ...]  # of attention.ARITHMETIC
    length: int  # no multiple of a tile, so that padding is met
    heads: int
    kv_heads: int  # where they are grouped
    head_dim: int
    window: int  # where a branch ends or a window does


@dataclasses.dataclass(frozen=True)
class ModelPlan:
    """A decoder in bfloat16 with float32 weights."""

    num_layers: int
    dim: int
    num_heads: int
    vocab_size: int

    def config(self, length: int, position: str, attention: str) -> dict[str, object]:
        """`config.model`: GPT-2's sizes and feed-forward, tied embeddings."""
        return {
            **dict(num_layers=self.num_layers, dim=self.dim, num_heads=self.num_heads),
            **dict(trained_length=length, position=position, attention=attention),
            **dict(ffn="gelu", ffn_dim=4 * self.dim, compute_dtype="bfloat16"),
        }


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step; `rows` on each device. Plain rows are whole texts: no segment ids, no positions are given."""

    length: int
    position: str
    attention: str
    rows: int
    plain: bool = False


@dataclasses.dataclass(frozen=True)
class PrefillPlan:
    cases: tuple[tuple[str, str], ...]  # (position, attention)
    trained_length: int
    lengths: tuple[int, ...]  # ascending: the longer ones are tried where the shorter ones promise to fit and to end
    longest_seconds: float  # of one prefill


@dataclasses.dataclass(frozen=True)
class ResumePlan:
    steps: int
    stop_at: int
    length: int
    batch_rows: int
    num_layers: int
    dim: int


@dataclasses.dataclass(frozen=True)
class Plan:
    seconds: float  # after so many nothing new is begun
    attention: AttentionPlan
    model: ModelPlan
    steps: tuple[Step, ...]
    seconds_a_step: float  # how long one program is timed
    prefill: PrefillPlan
    resume: ResumePlan


def _steps(length: int, tokens: int, dense_tokens: int, rerope: str) -> tuple[Step, ...]:
    rows, fewer = tokens // length, dense_tokens // length  # the dense product keeps [T, T] of every layer
    return (
        Step(length, "rope", "auto", rows, plain=True),
        Step(length, "rope", "tiled", rows),
        Step(length, "rope", "dense", fewer),
        Step(length, rerope, "tiled", rows),
        Step(length, rerope, "dense", fewer),
    )


GPU = Plan(
    seconds=320,
    attention=AttentionPlan(
        cases=("rope", "rerope", "lm_infinite", "rerope packed", "rope grouped"),
        arithmetic=("float32", "bfloat16", "float32, default products"),
        length=300,
        heads=4,
        kv_heads=2,
        head_dim=64,
        window=96,
    ),
    model=ModelPlan(num_layers=12, dim=768, num_heads=12, vocab_size=50_304),
    steps=(
        *_steps(1024, tokens=16_384, dense_tokens=8_192, rerope="rerope:window=512"),
        *_steps(4096, tokens=16_384, dense_tokens=4_096, rerope="rerope:window=2048"),
    ),
    seconds_a_step=4.0,
    prefill=PrefillPlan(
        cases=(
            ("rope", "auto"),
            ("rope", "tiled"),
            ("rope", "dense"),
            ("rerope:window=2048", "tiled"),
            ("rerope:window=2048", "dense"),
        ),
        trained_length=4096,
        lengths=(8_192, 32_768),
        longest_seconds=20,
    ),
    resume=ResumePlan(steps=30, stop_at=15, length=256, batch_rows=32, num_layers=4, dim=256),
)

TINY = Plan(
    seconds=320,
    attention=AttentionPlan(
        cases=("rope", "rerope packed"),
        arithmetic=("float32",),
        length=40,
        heads=4,
        kv_heads=2,
        head_dim=16,
        window=12,
    ),
    model=ModelPlan(num_layers=1, dim=16, num_heads=2, vocab_size=64),
    steps=(Step(32, "rerope:window=8", "tiled", 1),),
    seconds_a_step=0.05,
    prefill=PrefillPlan(cases=(("rope", "dense"),), trained_length=16, lengths=(32, 64), longest_seconds=20),
    resume=ResumePlan(steps=6, stop_at=3, length=32, batch_rows=8, num_layers=1, dim=16),
)
