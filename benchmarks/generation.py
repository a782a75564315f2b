"""How fast text is written, token by token: lmarch's Generator beside `generate` of Hugging Face transformers.

  python benchmarks/generation.py [--batches=1,8] [--context=1024] [--new=32] [--rounds=5] [--layers=6 --dim=384 ...]

One set of random weights, in lmarch's layout and in that of a LlamaForCausalLM; greedy, float32, on this machine's CPU. The
first token takes the reading of a prompt of `--context` tokens, each later one what passed since the token before. Cases
run in turn, and of each token's times the best of `--rounds` counts, so that little is left of what else a machine does.
Both libraries take all cores that they may (`taskset -c 0 python ...`: one). The part of Hugging Face needs torch and
transformers, and is left out where they are not installed.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from lmarch.command_line import no_overrides, parse, parser, quiet_libraries
from lmarch.config import ModelConfig
from lmarch.generation.generator import Generator, Texts
from lmarch.generation.sampling import Sampling
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.registry import parse_variant

Write = Callable[[int], tuple[np.ndarray, list[float]]]  # number of new tokens -> which, [B, N], and when each was there
PEER, OURS = "Hugging Face", "rope"


def of_lmarch(config: ModelConfig, vocabulary: int, params: Parameters, prompts: np.ndarray) -> Write:
    generator = Generator(ModelDefinition(config, vocabulary), params)

    def write(count: int) -> tuple[np.ndarray, list[float]]:
        tokens = generator.tokens(Texts([*prompts]), count, Sampling())
        told = [(drawn_B, time.perf_counter()) for drawn_B in tokens]
        return np.stack([drawn_B for drawn_B, _ in told], axis=1), [when for _, when in told]

    return write


def of_hugging_face(config: ModelConfig, vocabulary: int, params: Parameters, prompts: np.ndarray) -> Write:
    """The same model there; ImportError where torch or transformers is missing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.generation.streamers import BaseStreamer

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
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(shape).eval()
    model.load_state_dict({name: torch.tensor(x) for name, x in hugging_face_weights(params).items()})
    ids = torch.tensor(prompts)
    greedy: dict[str, Any] = dict(attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True)
    print(f"torch {torch.__version__} computes in {torch.get_num_threads()} threads, on {os.cpu_count()} cores")

    class Clock(BaseStreamer):
        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: torch.Tensor) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None: ...

    def write(count: int) -> tuple[np.ndarray, list[float]]:
        clock = Clock()
        made = model.generate(ids, min_new_tokens=count, max_new_tokens=count, streamer=clock, **greedy)
        return made[:, ids.shape[1] :].numpy(), clock.times[1:]  # it is told the prompt first

    return write


def hugging_face_weights(params: Parameters) -> dict[str, np.ndarray]:
    """PyTorch stores [out, in], lmarch [in, heads, K] and [heads, K, out]; the halves that rotate are the same."""
    layers = jax.tree.map(np.asarray, params["stack"]["layers"])
    matrices = {"model.embed_tokens": params["embedding"], "lm_head": params["unembedding"].T}
    matrices["model.norm"] = params["final_norm"]["scale"]
    for number, attention_norm in enumerate(layers["attention_norm"]["scale"]):
        at = f"model.layers.{number}."
        matrices[f"{at}input_layernorm"] = attention_norm
        matrices[f"{at}post_attention_layernorm"] = layers["ffn_norm"]["scale"][number]
        for name, of_layers in layers["attention"].items():
            shape = (-1, of_layers.shape[-1]) if name == "out" else (of_layers.shape[1], -1)
            matrices[f"{at}self_attn.{name[0]}_proj"] = of_layers[number].reshape(shape).T
        matrices |= {f"{at}mlp.{name}_proj": of_layers[number].T for name, of_layers in layers["ffn"].items()}
    return {f"{name}.weight": np.asarray(matrix) for name, matrix in matrices.items()}


def measure(cases: dict[str, Write], new: int, rounds: int) -> dict[str, np.ndarray]:
    """Seconds that each token took, [1 + new]: the best of its times, after one round that compiles."""
    taken: dict[str, list[np.ndarray]] = {name: [] for name in cases}
    for _ in range(1 + rounds):
        for name, write in cases.items():
            began = time.perf_counter()
            taken[name].append(np.diff([began, *write(1 + new)[1]]))
    return {name: np.min(times[1:], axis=0) for name, times in taken.items()}


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
    windows = {OURS: "full", f"rerope:window={half}": "full", f"{OURS} in streaming": f"streaming:size={half - 5}"}
    for name, window in windows.items():
        position = parse_variant(name.partition(" ")[0])
        cases[name] = of_lmarch(replace(config, position=position, window=parse_variant(window)), *model)
    best = measure(cases, given.new, given.rounds)
    peer = next(iter(cases))
    print(f"\nbatch {batch}{'':18}{'first token ms':>15} {'ms a token':>11} {'tokens/s':>9} {'x ' + peer:>15}")
    for name, (first, *later) in best.items():
        seconds, of_peer = np.mean(later), np.mean(best[peer][1:])
        print(f"{name:25}{first * 1e3:15.1f} {seconds * 1e3:11.2f} {batch / seconds:9.0f} {of_peer / seconds:15.2f}")
    if PEER in cases:
        equal = cases[PEER](1 + given.new)[0] == cases[OURS](1 + given.new)[0]
        print(f"{equal.sum()} of {equal.size} tokens are equal", flush=True)


def main() -> None:
    quiet_libraries()
    flags = parser(__doc__)
    flags.add_argument("--batches", default="1,8")
    sizes = {"context": 1024, "new": 32, "rounds": 5, "layers": 6, "dim": 384, "heads": 6, "kv_heads": 2}
    for name, size in (sizes | {"ffn_dim": 1024, "vocabulary": 8192}).items():
        flags.add_argument(f"--{name}", type=int, default=size)
    given, overrides = parse(flags, sys.argv[1:])
    no_overrides(overrides)
    for batch in map(int, given.batches.split(",")):
        compare(given, batch)


if __name__ == "__main__":
    main()
