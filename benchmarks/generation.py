"""How fast text is written, token by token: lmarch's Generator beside `generate` of Hugging Face transformers.

  python benchmarks/generation.py [--batches=1,8] [--context=1024] [--new=64] [--rounds=5] [--layers=6 --dim=384 ...]

One set of random weights, in lmarch's layout and in that of a LlamaForCausalLM; greedy, float32, on this machine's CPU. A
round times every case once with 1 new token (the prompt is read) and once with 1 + `--new`; what the second takes longer is
the time of so many tokens behind `--context` others. Cases run in turn, times are the best of `--rounds`. The part of
Hugging Face needs torch and transformers, and is left out where they are not installed.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lmarch.command_line import no_overrides, parse, parser, quiet_libraries
from lmarch.config import ModelConfig
from lmarch.generation.generator import Generator, Texts
from lmarch.generation.sampling import Sampling
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.registry import parse_variant

Write = Callable[[int], np.ndarray]  # so many new tokens -> what they are, [B, N]
PEER, OURS = "Hugging Face", "rope"


def of_lmarch(config: ModelConfig, vocabulary: int, params: Parameters, prompts: np.ndarray) -> Write:
    generator = Generator(ModelDefinition(config, vocabulary), params)
    return lambda count: np.stack([*generator.tokens(Texts(prompts), count, Sampling())], axis=1)


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
        max_position_embeddings=2 * config.trained_length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(shape).eval()
    model.load_state_dict({name: torch.tensor(x) for name, x in hugging_face_weights(params).items()})
    ids = torch.tensor(prompts)
    greedy: dict[str, Any] = dict(attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True)
    print(f"torch {torch.__version__} computes in {torch.get_num_threads()} threads, on {os.cpu_count()} cores")

    def write(count: int) -> np.ndarray:
        made = model.generate(ids, min_new_tokens=count, max_new_tokens=count, **greedy)
        return made[:, ids.shape[1] :].numpy()

    return write


def hugging_face_weights(params: Parameters) -> dict[str, np.ndarray]:
    """PyTorch stores [out, in], lmarch [in, heads, K] and [heads, K, out]; the halves that rotate are the same."""
    params = jax.tree.map(np.asarray, params)
    layers = params["stack"]["layers"]
    weights = {
        "model.embed_tokens.weight": params["embedding"],
        "model.norm.weight": params["final_norm"]["scale"],
        "lm_head.weight": params["unembedding"].T,
    }
    for number, attention_norm in enumerate(layers["attention_norm"]["scale"]):
        at = f"model.layers.{number}."
        weights[at + "input_layernorm.weight"] = attention_norm
        weights[at + "post_attention_layernorm.weight"] = layers["ffn_norm"]["scale"][number]
        matrices = {name: x[number] for name, x in (layers["attention"] | layers["ffn"]).items()}
        for name in ("query", "key", "value"):
            weights[at + f"self_attn.{name[0]}_proj.weight"] = matrices[name].reshape(len(matrices[name]), -1).T
        weights[at + "self_attn.o_proj.weight"] = matrices["out"].reshape(-1, matrices["out"].shape[-1]).T
        for name in ("gate", "up", "down"):
            weights[at + f"mlp.{name}_proj.weight"] = matrices[name].T
    return weights


def measure(cases: dict[str, Write], new: int, rounds: int) -> dict[tuple[str, int], float]:
    """The best seconds of each case with 1 token and with 1 + `new`, after one time that compiles."""
    best: dict[tuple[str, int], float] = {(name, count): math.inf for name in cases for count in (1, 1 + new)}
    for turn in range(1 + rounds):
        for name, count in best:
            began = time.perf_counter()
            cases[name](count)
            if turn:
                best[name, count] = min(best[name, count], time.perf_counter() - began)
    return best


def compare(given: argparse.Namespace, batch: int) -> None:
    """Prints each case's speed beside that of the first."""
    config = ModelConfig(
        trained_length=given.context,
        num_layers=given.layers,
        dim=given.dim,
        num_heads=given.heads,
        num_kv_heads=given.kv_heads,
        ffn_dim=given.ffn_dim,
        tied_embeddings=False,  # else a random model repeats its last token, and equal tokens say little
        init_std=1.0,
    )
    params = ModelDefinition(config, given.vocabulary).init(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(0, given.vocabulary, (batch, given.context))
    model = (given.vocabulary, params, prompts)
    cases: dict[str, Write] = {}
    try:
        cases[PEER] = of_hugging_face(config, *model)
    except ImportError as error:
        print(f"without {PEER}: {error}")
    half = given.context // 2
    variants = {"rope": "full", f"rerope:window={half}": "full", "rope in streaming": f"streaming:size={half - 5}"}
    for name, window in variants.items():
        settings: dict[str, Any] = {"position": parse_variant(name.split()[0]), "window": parse_variant(window)}
        cases[name] = of_lmarch(ModelConfig(**vars(config) | settings), *model)
    best = measure(cases, given.new, given.rounds)
    each = {name: (best[name, 1 + given.new] - best[name, 1]) / given.new for name in cases}
    first = next(iter(cases))
    print(f"\nbatch {batch}{'':18}{'first token ms':>15} {'ms a token':>11} {'tokens/s':>9} {'x ' + first:>15}")
    for name, seconds in each.items():
        cells = (
            f"{best[name, 1] * 1e3:15.1f} {seconds * 1e3:11.2f} {batch / seconds:9.0f} {each[first] / seconds:15.2f}"
        )
        print(f"{name:25}{cells}", flush=True)
    if PEER in cases:
        equal = cases[PEER](1 + given.new) == cases[OURS](1 + given.new)
        print(f"{equal.sum()} of {equal.size} tokens are equal")


def main() -> None:
    quiet_libraries()
    flags = parser(__doc__)
    flags.add_argument("--batches", default="1,8")
    sizes = {"context": 1024, "new": 64, "rounds": 5, "layers": 6, "dim": 384, "heads": 6, "kv_heads": 2}
    for name, size in (sizes | {"ffn_dim": 1024, "vocabulary": 8192}).items():
        flags.add_argument(f"--{name}", type=int, default=size)
    given, overrides = parse(flags, sys.argv[1:])
    no_overrides(overrides)
    for batch in map(int, given.batches.split(",")):
        compare(given, batch)


if __name__ == "__main__":
    main()
