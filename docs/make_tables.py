"""Writes positions.md, windows.md and optimizers.md from the registries, results.md from `results/`: `python docs/make_tables.py`.

A test keeps them equal.
"""

# ruff: noqa: E501 (rows of tables)

import dataclasses
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmarch.attention.operands import index_maps
from lmarch.attention.selection import SELECTIONS
from lmarch.attention.spec import attention_spec
from lmarch.errors import UserError
from lmarch.experiments.publishing import stored_results
from lmarch.positions import POSITIONS, SAMPLERS, TEMPERATURES
from lmarch.reporting.stored import results_document
from lmarch.training.optimizers import OPTIMIZERS
from lmarch.visibility import ARCHITECTURES, WINDOWS

INTRODUCTION = """\
# Position methods

Made by `python docs/make_tables.py` from the registries; do not edit by hand.

RoPE turns channel pair i of a query and a key by the angle f(t, i) = g(t)·h(i), so that a logit depends on their distance.
t, s are the positions of query and key, d = t − s, δ the effective distance a pair is turned by; K the head size, b the
base, θ_i = b^(−2i/K), H heads; L the trained length, L′ the target length. *Frequency maps* change h(i), *index maps* g(t).

In a config a method is `dict(name="rerope", window=64)`, on a command line `rerope:window=64`. Index maps and `truncated`,
`power`, `resonance`, `partial`, `fox` take any frequency map, every method takes a temperature, and every method that rotates a `rope_base`
in place of the model's:

    rerope:window=64,frequencies=yarn,frequencies.factor=8,temperature=log_n
    partial:fraction=0.25,frequencies=yarn,frequencies.factor=4,rope_base=1000000

Parameters without a value are derived and spelled out in every result: a `factor` is L′/L, `window`, `k`, `group`, `chunk`
as the method's docstring says. `lmarch show METHOD` draws what a method does to distances, and which angles
it meets that training has not seen.
"""
KINDS = {
    "frequencies": "Frequency maps",
    "index map": "Index maps",
    "bias": "Additive biases (nothing is rotated)",
    "none": "No encoding",
    "absolute": "Absolute positions",
}
HEADINGS = ("method", "formula", "near and far", "fast and slow frequencies", "fine-tuning", "extra cost", "source")
LEAKY = """\
**The k of Leaky ReRoPE.** Two conventions stretch L to L′ outside a window w: (L′ − w)/(L − w), whose largest effective
distance is a fraction above L − 1, and (L′ − 1 − w)/(L − 1 − w), which lands on L − 1, the largest distance training
has seen. The second is the default. For L = 512, L′ = 4096, w = 128 they are 10.333 and 10.358; the first reaches 511.90.
"""
CONTENT = """\
**A bias that reads content.** The bias of `fox`, the forgetting gate, depends on what tokens say and not on their positions: each layer
learns a gate for each head, f_u = σ(w·x_u + b), of the states that it reads, and a pair's bias is the sum of ln f_u over the tokens after the
key, up to the query. So positions that are sampled, and the place that a window gives its sinks, say nothing to it, and an index map has no
place in it; `fox:frequencies=rope` rotates too, by any frequency map. It goes with every window, with packed rows (sums begin anew with each
document), with temperatures (they are a factor of the logits before the bias), with `knn` and `infllm`, and with a cache, which keeps a float32
number more of each token and head. Queries must come after their keys: only causal layers take it.
"""
NOTES = {"index map": LEAKY, "bias": CONTENT}
PLACES = """\
## Where a method may be used

Causal layers take all of them. Where keys after their query are seen (the prefix of a prefix decoder, an encoder), index
maps mirror their far branch, T5's buckets are split between the two directions, ALiBi, KERPLE and FIRE use |t − s|
(ALiBi also `variant=offset`); `xpos`, `dual_chunk` and `fox` are refused; `nope` is refused in an encoder and remarked upon in
a prefix decoder. Settings that leave a method's design range (a `factor` too small for the text, an index map or a window
that reaches a distance training has not seen) run, and every result says so.
"""

OPTIMIZERS_INTRODUCTION = """\
# Optimizers

Made by `python docs/make_tables.py` from the registry; do not edit by hand.

`config.train.optimizer` names one, as `--config.train.optimizer=muon:rate=2`; a sweep can set it or one of its parameters
(`train.optimizer.weight_decay`). All are optax's.

"""
OPTIMIZERS_REST = """
Weight decay is decoupled (a step takes rate × weight decay × w) and applies to matrices and embeddings, those of
positions among them, but not to norm scales and biases, nor to anything that a bias by distance learns, such as T5's table and FIRE's
matrices. Gradients are clipped before (`train.clip_norm`). Of the Shampoo family optax has Muon alone.

Schedules (`train.schedule`) warm up linearly (`train.warmup_steps`) and then go as `cosine` to `train.final_fraction` of the peak, as `wsd`
stay and fall linearly in the last `train.decay_steps`, or are `constant`. Rates that transfer across widths, averaged weights and
skipped spikes: [sweeps.md](sweeps.md).

Learning rate and weight decay are arguments of the compiled step. Runs that differ in these, in their schedule, their length or their
seeds are one program, which a process compiles once: the trials of a sweep among them.

## Precision

Weights, their average, what an optimizer keeps, and gradients with their norm are float32 in every run; micro-batches are added up in
float32. `model.compute_dtype=bfloat16` multiplies in bfloat16. `model.param_dtype=bfloat16` rounds the weights where the model reads
them: training keeps what is cut off, and `lmarch.load` gives the rounded ones in half the memory. So 2,000 steps of 1e-4 end where
those of float32 end, for every optimizer (`tests/training/test_half_precision.py`); in bfloat16 they would not have moved a weight of
1. There is no float16: its range ends at 6e-8 and 65,504, so that losses would have to be scaled, which those of bfloat16 need not.
"""
WINDOWS_INTRODUCTION = """\
# Windows, selection, and what a cache keeps

Made by `python docs/make_tables.py` from the registries; do not edit by hand.

A *window* (`config.model.window`) says by place which of the visible tokens a query attends to; a *selection*
(`config.model.selection`) looks at queries and keys and chooses. Both hold in training, in evaluation (`lmarch eval --windows=…
--selections=…`) and in generation; `model.with_window("streaming", sinks=4)` and `model.with_selection("infllm")` put them on trained
weights. `infllm`, `quest` and `landmark` with `top` count blocks of one text, so they do not train, where rows hold several; `moba` counts blocks
of a document, and is trained as it is read. d is how many tokens back a key lies, L the trained length. Published sizes differ by one in whether
they count the query; this is what lmarch counts:

| | visible | counted as in |
| --- | --- | --- |
| `sliding:size=W` | 0 <= d < W | Mistral, Hugging Face |
| `streaming:sinks=S,size=R` | 0 <= d <= R, and the first S tokens | the released evaluation script (its chat demo has d < R) |
| `lm_infinite:size=W,sinks=G` | 0 <= d < W, and the first G tokens | the released code |
| `parallel:size=C,task_length=N` | earlier tokens of the same C tokens; everything earlier for the last N | the paper |
| `infllm:local=W,sinks=G` | 0 <= d < W, the first G tokens, chosen blocks, and what has left the window but filled no block | the paper |
| `moba:block=N,top=K` | of the query's own block, N tokens counted from the start of its document, everything up to it; of earlier blocks the K - 1 best, whole | the paper |
| `landmark:block=N` | everything, a block of N tokens and its landmark being N + 1 tokens of the row | the paper, which trains rows of 512 with blocks of 50 + 1 |
"""
PAPER_AND_CODE = """\
## Where paper and released code differ

| method | paper, and the default | released code, and how to get it |
| --- | --- | --- |
| `streaming` | a window of R recent tokens | R past tokens and the query: the default here, since every published number has it |
| `lm_infinite` | the distance ceiling is L | L uses a distance that was never trained; the default is L - 1; `size=L` is the released setting |
| `parallel` | windows are alike | the task sees the first token (BOS) of the longest window only: `first=longest` |
| `knn` (Focused Transformer) | top-k keys of the memory | inference attends to all of it: `top=none` |
| `infllm` | far keys at distance `local`; representatives by mean logit | distance local - 1: `distance=code`; representatives by summed softmax weights and one choice for 512 queries are left out (see its docstring: the choice looks ahead) |
| `quest` | a prompt is read without a selection | the same; `prefill=selected` makes a forward pass choose as decoding does |
| `landmark` | trained with all blocks (`top=none`), read with `top=2` to 4: each head of each query chooses; stingy positions | the same with `per_token_and_head`; it can also choose for all heads, or all queries of a chunk, together, which is left out, and while it retrieves, it predicts the token behind a landmark from the token before it |
"""
REFUSED = """
Any position method goes with any window. What has no meaning is refused when the config is read, with the reason: a
selection beside a window (it has a local window of its own), `quest` and `moba` over an index map or an additive bias (bounds and means of keys know
neither), `knn` over `dual_chunk`, a selection over `xpos` or stepwise frequencies, blocks of packed rows (not those of `moba`), layers that mix
`parallel` with another window, and a text without end where a layer sees all of it. In cross-attention a selection is
`config.model.cross_selection`; the windows of an encoder are `config.model.encoder.window`. `landmark` needs its tokens in
the text: a causal decoder trained on `causal_lm` with a layer that selects it gets rows with them (one more id; a row of
`row_length` holds both), and evaluation and generation put them in and leave them out again. With `top` it places blocks itself,
which an index map, a bias, embedded positions or frequencies by length have no place for.

## Layers that differ

`config.model.layers` is a pattern of layers that is repeated, `first_layers` and `last_layers` come once, before and after it, and all count among
`num_layers`; an encoder has `encoder.layers` alone. A layer names what is its own: `position`, `window`, `selection` (none: it attends to all), `mixer`, `rope_base`, `num_heads`,
`num_kv_heads`, `head_dim`, `value_head_dim`, `ffn`, `ffn_dim`, `attention_bias`, `ffn_bias`, `attention_scale`, `attention_softcap`, `sink`, `qk_norm`;
the rest is the model's. As in Gemma 3, five layers in a window and one that sees everything, slower, and two more in a window at the end:

```python
LOCAL = dict(window="sliding:size=512")
config.model = dict(
    num_layers=26,  # 4 times 5 + 1, and 2
    rope_base=1e4,
    layers=(*[LOCAL] * 5, dict(rope_base=1e6)),
    last_layers=(LOCAL, LOCAL),
)
```

A selection in all layers but the first two, which attend to everything:

```python
config.model = dict(num_layers=12, selection="moba:block=64,top=3", first_layers=(dict(selection=None),) * 2)
```

An evaluation under another method, window or selection changes the layers that do not name their own. A layer's own `rope_base` goes over to the
other method, which must be one that rotates.
"""
CACHE = """\
## What a cache keeps

`model.generate` reads prompts in chunks and then one token at a time; a text added at once, in chunks or token by token has
the logits of one forward pass, for every method, window and architecture (`tests/models/test_cache.py`). Keys are kept
rotated where their rotation is their own, in as many copies as the layer rotates them differently:
"""
FORMS = """\
**Methods whose rotation depends on the length of the text** (`dynamic_ntk`, `longrope`) have two forms. `full`: the whole text
is rotated for one length; generation takes the length that a text may reach (prompt + `max_new_tokens`) and keeps to it.
`stepwise`: row t is rotated, with all its keys, for t + 1 tokens; keys are kept as they are and rotated at every step. Both
are equal to a forward pass of the same form. Hugging Face's cache, whose old keys keep old rotations, is neither.

**Memory is bounded** where every layer sees a window: a layer keeps its sinks and a ring of the window plus one chunk,
however long the text grows. **Parallel windows** are cut once, for the prompt; what is generated is task.
**A prefix** is read in one piece, since it sees itself both ways. **An encoder** runs once; every layer's cross keys are kept. **`fox`** adds a
float32 number for each token and head. **Another mixer** than attention (`config.model.mixer`) keeps a state of its own.
**Memories** of `knn` layers can be trained across documents: with `train.cross_batch=n` the first context of n other rows is in
every memory, and the model learns to tell it from its own. **Quest** decodes from the pages it chooses and reads no others; the bounds of a page are updated with each key.
"""


def made_of_results() -> str:
    return results_document((one.record, one.verdicts, one.results) for one in stored_results().values())


def optimizers_document() -> str:
    rows = [[signature(OPTIMIZERS[name]), summary(OPTIMIZERS[name])] for name in OPTIMIZERS]
    return OPTIMIZERS_INTRODUCTION + table(("name and parameters", "what it does"), rows) + OPTIMIZERS_REST


def windows_document() -> str:
    parts = [WINDOWS_INTRODUCTION]
    for title, registry in (("Windows", WINDOWS), ("Selections", SELECTIONS)):
        rows = [[signature(registry[name]), summary(registry[name])] for name in registry]
        parts.append(f"## {title}\n\n" + table(("name and parameters", "what it does"), rows))
    parts += [PAPER_AND_CODE, "## Where they are defined\n\n" + where_defined() + REFUSED]
    rows = [[f"`{name}`", *kept(name)] for name in POSITIONS]
    return "\n".join([*parts, CACHE, table(("position", "keys", "beside the sinks of streaming"), rows), FORMS])


def spec_of(**options: Any) -> Any:
    sizes = dict(head_dim=16, num_heads=2, trained_length=64, target_length=256)
    return attention_spec(**(sizes | options))


def where_defined() -> str:
    """What `attention_spec` says of every window and selection at every site."""
    rows = []
    for field, registry in (("window", WINDOWS), ("selection", SELECTIONS)):
        for name in registry:
            row = [f"`{name}`"]
            for site in ARCHITECTURES:
                try:
                    spec_of(
                        architecture=site, position="nope" if site == "cross_attention" else "rope", **{field: name}
                    )
                    row.append("yes")
                except UserError:
                    row.append("no")
            rows.append(row)
    return table(("", *ARCHITECTURES), rows)


def kept(name: str) -> list[str]:
    """In how many copies a method keeps its keys, and where there are sinks."""
    full, window = spec_of(position=name), spec_of(position=name, window="streaming:sinks=4,size=32")
    as_they_are = full.position.rotation is None or not full.keys_rotate_alone
    copies = [len(index_maps(spec, placed=False)[1].distinct) for spec in (full, window)]
    return ["as they are"] * 2 if as_they_are else [f"rotated, {n} {'copy' if n == 1 else 'copies'}" for n in copies]


def document() -> str:
    parts = [INTRODUCTION]
    for kind, title in KINDS.items():
        methods = [cls for cls in map(POSITIONS.__getitem__, POSITIONS) if cls.card.kind == kind]
        rows = [[signature(cls), *cls.card[1:]] for cls in methods]
        parts.append(f"## {title}\n\n" + table(HEADINGS, rows) + (f"\n{NOTES[kind]}" if kind in NOTES else ""))
    for title, registry in (
        ("Temperatures", TEMPERATURES),
        ("Position samplers (`config.data.position_sampler`)", SAMPLERS),
    ):
        rows = [[signature(registry[name]), summary(registry[name])] for name in registry]
        parts.append(f"## {title}\n\n" + table(("name and parameters", "what it does"), rows))
    return "\n".join([*parts, PLACES])


def signature(cls: Any) -> str:
    """`name` and its parameters with their defaults; those derived from others have none."""
    fields = [
        field.name if field.default is None else f"{field.name}={field.default}" for field in dataclasses.fields(cls)
    ]
    return f"`{cls.name}`" + (f" {', '.join(fields)}" if fields else "")


def summary(cls: Any) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headings)]
    lines += [["---"] * len(lines[0])]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    results = made_of_results()
    documents = {"positions": document(), "windows": windows_document(), "optimizers": optimizers_document()}
    for name, made in (documents | {"results": results}).items():
        Path(__file__).with_name(f"{name}.md").write_text(made, encoding="utf-8")
