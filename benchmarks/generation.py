"""How fast text is written, token by token: lmarch's Generator beside `generate` of Hugging Face transformers.

  python benchmarks/generation.py [--batches=1,8] [--context=1024] [--new=32] [--rounds=5] [--dim=384 ...]

One set of random weights, in lmarch's layout and in that of a LlamaForCausalLM; greedy, float32, on this machine's CPU. The
first token takes the reading of a prompt of `--context` tokens, each of `--new` more what passed since the one before. Cases
run in turn, and the best of `--rounds` counts. Both libraries take all cores that they may. Where something else runs too,
give them one (`taskset -c 0 python ...`): threads that wait for each other slow torch far more.
The part of Hugging Face needs torch and transformers, and is left out where they are not installed.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from lmarch.command_line import no_overrides, parse, parser, quiet_libraries
from lmarch.config import ModelConfig
from lmarch.generation.generator import Generator, Texts
from lmarch.generation.sampling import Sampling
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.registry import parse_variant

SHAPE = {"num_layers": 6, "dim": 384, "num_heads": 6, "num_kv_heads": 2, "ffn_dim": 1024}
PEER, OURS = "Hugging Face", "rope"


class Written(NamedTuple):
    tokens_BN: np.ndarray
    times: list[float]  # when each of the N was there


Write = Callable[[int], Written]  # so many new tokens


def of_lmarch(config: ModelConfig, vocabulary: int, params: Parameters, prompts: np.ndarray) -> Write:
    generator = Generator(ModelDefinition(config, vocabulary), params)

    def write(count: int) -> Written:
        drawn = [(drawn_B, time.perf_counter()) for drawn_B in generator.tokens(Texts([*prompts]), count, Sampling())]
        return Written(np.stack([drawn_B for drawn_B, _ in drawn], axis=1), [when for _, when in drawn])

    return write


def of_hugging_face(config: ModelConfig, vocabulary: int, params: Parameters, prompts: np.ndarray) -> Write:
    """The same model there; ImportError where torch or transformers is missing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.dim,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
        tie_word_embeddings=False,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(shape).eval()
    model.load_state_dict({name: torch.tensor(x) for name, x in hugging_face_weights(params).items()})
    ids = torch.tensor(prompts)
    greedy: dict[str, Any] = dict(attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True)
    print(f"torch {torch.__version__} computes in {torch.get_num_threads()} threads")

    def write(count: int) -> Written:
        times: list[float] = []
        clock = SimpleNamespace(put=lambda _: times.append(time.perf_counter()), end=lambda: None)
        made = model.generate(ids, min_new_tokens=count, max_new_tokens=count, streamer=clock, **greedy)
        return Written(made[:, ids.shape[1] :].numpy(), times[1:])  # it is told the prompt first

    return write


def hugging_face_weights(params: Parameters) -> dict[str, np.ndarray]:
    """PyTorch stores [out, in], lmarch [in, heads, K] and [heads, K, out]; the halves that rotate are the same."""
    layers = jax.tree.map(np.asarray, params["stack"]["layers"])
    matrices = {"model.embed_tokens": params["embedding"], "model.norm": params["final_norm"]["scale"]}
    matrices["lm_head"] = params["unembedding"].T
    for number, attention_norm in enumerate(layers["attention_norm"]["scale"]):
        at = f"model.layers.{number}."
        matrices[f"{at}input_layernorm"] = attention_norm
        matrices[f"{at}post_attention_layernorm"] = layers["ffn_norm"]["scale"][number]
        for name, of_layers in layers["attention"].items():
            shape = (-1, of_layers.shape[-1]) if name == "out" else (of_layers.shape[1], -1)
            matrices[f"{at}self_attn.{name[0]}_proj"] = of_layers[number].reshape(shape).T
        matrices |= {f"{at}mlp.{name}_proj": of_layers[number].T for name, of_layers in layers["ffn"].items()}
    return {f"{name}.weight": np.asarray(matrix) for name, matrix in matrices.items()}


def measure(cases: dict[str, Write], new: int, rounds: int) -> dict[str, tuple[float, float]]:
    """The best seconds to the first token, and from each to the next; the first round, which compiles, does not count."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(1 + rounds):
        for name, write in cases.items():
            began = time.perf_counter()
            first, *_, last = write(1 + new).times
            taken[name].append((first - began, (last - first) / new))
    return {name: tuple(np.min(times[1:], axis=0)) for name, times in taken.items()}


def compare(given: Any, batch: int) -> None:
    """Prints each case's speed beside that of the first."""
    shape = {name: getattr(given, name) for name in SHAPE}
    # Untied: a random model with tied embeddings repeats its last token, and equal tokens would say little.
    config = ModelConfig(trained_length=given.context, tied_embeddings=False, init_std=1.0, **shape)
    params = ModelDefinition(config, given.vocabulary).init(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(0, given.vocabulary, (batch, given.context))
    cases: dict[str, Write] = {}
    try:
        cases[PEER] = of_hugging_face(config, given.vocabulary, params, prompts)
    except ImportError as error:
        print(f"without {PEER}: {error}")
    half = given.context // 2
    windows = {OURS: "full", f"rerope:window={half}": "full", f"{OURS} in streaming": f"streaming:size={half - 5}"}
    for name, window in windows.items():
        seen = replace(config, position=parse_variant(name.partition(" ")[0]), window=parse_variant(window))
        cases[name] = of_lmarch(seen, given.vocabulary, params, prompts)
    best = measure(cases, given.new, given.rounds)
    peer = next(iter(cases))
    print(f"\nbatch {batch}{'':18}{'first token ms':>15} {'ms a token':>11} {'tokens/s':>9} {'x ' + peer:>15}")
    for name, (first, each) in best.items():
        print(f"{name:25}{first * 1e3:15.1f} {each * 1e3:11.2f} {batch / each:9.0f} {best[peer][1] / each:15.2f}")
    if PEER in cases:
        equal = cases[PEER](1 + given.new).tokens_BN == cases[OURS](1 + given.new).tokens_BN
        print(f"{equal.sum()} of {equal.size} tokens are equal", flush=True)


def main() -> None:
    quiet_libraries()
    flags = parser(__doc__)
    flags.add_argument("--batches", default="1,8")
    for name, size in {"context": 1024, "new": 32, "rounds": 5, "vocabulary": 8192, **SHAPE}.items():
        flags.add_argument(f"--{name}", type=int, default=size)
    given, overrides = parse(flags, sys.argv[1:])
    no_overrides(overrides)
    for batch in map(int, given.batches.split(",")):
        compare(given, batch)


if __name__ == "__main__":
    main()
