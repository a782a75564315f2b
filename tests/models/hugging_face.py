"""Models of Hugging Face transformers in `tests/golden/models.npz`, as parameters and configs of lmarch."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.models.definition import ModelDefinition, Parameters

GOLDEN = Path(__file__).parent.parent / "golden" / "models.npz"
T5 = ("t5_flan_gated_gelu", "t5_v1_relu_tied")
DECODERS = ("llama_default", "llama_mha_bias", "qwen2", "gemma", "gptneox_parallel")
# (S, T): lengths of the source and of the target; both models' distances are exceeded by the last (128 and 10).
T5_SIZES = ((1, 1), (1, 64), (64, 1), (2, 3), (17, 16), (33, 31), (64, 64), (160, 150))

Weights = Mapping[str, np.ndarray]


class Model(NamedTuple):
    definition: ModelDefinition
    params: Parameters
    arrays: Mapping[str, np.ndarray]  # input_ids, attention_mask, logits, ...

    def computed(self, attention: str) -> ModelDefinition:
        """The same model with attention computed this way."""
        config = dataclasses.replace(self.definition.config, attention=attention)
        return dataclasses.replace(self.definition, config=config)


@functools.cache
def load(name: str) -> Model:
    stored = np.load(GOLDEN)
    prefix = f"{name}/"
    arrays = {key.removeprefix(prefix): stored[key] for key in stored.files if key.startswith(prefix)}
    weights = {key.removeprefix("weights/"): x for key, x in arrays.items() if key.startswith("weights/")}
    told = json.loads(str(arrays["config"]))
    config, params = FAMILIES[told["model_type"]](told, weights)
    definition = ModelDefinition(config, told["vocab_size"])
    params = jax.tree.map(jnp.asarray, params)
    # Every weight has a place, and every parameter a weight.
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, definition.shapes)
    assert definition.num_parameters == sum(w.size for w in weights.values())
    return Model(definition, params, arrays)


def _t5(told: dict[str, Any], weights: Weights) -> tuple[ModelConfig, Parameters]:
    tied, gated, heads = told["tie_word_embeddings"], told["is_gated_act"], told["num_heads"]
    config = ModelConfig(
        architecture="encoder_decoder",
        num_layers=told["num_decoder_layers"],
        encoder=EncoderConfig(num_layers=told["num_layers"]),
        dim=told["d_model"],
        num_heads=heads,
        head_dim=told["d_kv"],
        ffn="geglu" if gated else "relu",
        ffn_dim=told["d_ff"],
        norm_eps=told["layer_norm_epsilon"],
        attention_scale=1.0,  # T5 does not divide by sqrt(K)
        tied_embeddings=tied,
        scale_unembedding=tied,
        position={
            "name": "t5_bias",
            "num_buckets": told["relative_attention_num_buckets"],
            "max_distance": told["relative_attention_max_distance"],
        },
    )
    norm, attention = ("layer_norm.weight",), ("q.weight", "k.weight", "v.weight", "o.weight")

    def stack(side: str, count: int, sublayers: Mapping[str, str]) -> Parameters:
        def layer(number: int) -> Parameters:
            made: Parameters = {}
            for place, (name, inner) in enumerate(sublayers.items()):
                at = f"{side}.block.{number}.layer.{place}."
                made[f"{name}_norm"] = {"scale": weights[at + norm[0]]}
                matrices = f"{at}{inner}."
                if name == "ffn":
                    parts = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}
                    found = {ours: weights[f"{matrices}{theirs}.weight"].T for ours, theirs in parts.items()}
                    made["ffn"] = found
                else:
                    found = _projections(*(weights[matrices + part] for part in attention), heads, heads)
                    made["attention" if name == "attention" else "cross_attention"] = found
            return made

        bias = weights[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return {"layers": _stacked(layer, count), "shared_by_layers": {"t5_bias": bias}}

    of_encoder = {"attention": "SelfAttention", "ffn": "DenseReluDense"}
    of_decoder = {"attention": "SelfAttention", "cross": "EncDecAttention", "ffn": "DenseReluDense"}
    params = {
        "embedding": weights["shared.weight"],
        "encoder": stack("encoder", told["num_layers"], of_encoder),
        "encoder_norm": {"scale": weights["encoder.final_layer_norm.weight"]},
        "stack": stack("decoder", told["num_decoder_layers"], of_decoder),
        "final_norm": {"scale": weights["decoder.final_layer_norm.weight"]},
    }
    return config, params if tied else params | {"unembedding": weights["lm_head.weight"].T}


def _llama(told: dict[str, Any], weights: Weights) -> tuple[ModelConfig, Parameters]:
    """Llama, Qwen 2 and Gemma, which are the same block."""
    heads, groups, tied = told["num_attention_heads"], told["num_key_value_heads"], told["tie_word_embeddings"]
    gemma = told["model_type"] == "gemma"
    first = "model.layers.0.self_attn.{}_proj.bias"
    biases = {"qkv": first.format("q") in weights, "all": first.format("o") in weights}
    config = ModelConfig(
        num_layers=told["num_hidden_layers"],
        dim=told["hidden_size"],
        num_heads=heads,
        num_kv_heads=groups,
        head_dim=told.get("head_dim"),
        ffn={"silu": "swiglu", "gelu_pytorch_tanh": "geglu"}[told["hidden_act"]],
        ffn_dim=told["intermediate_size"],
        norm_eps=told["rms_norm_eps"],
        norm_offset=gemma,
        scale_embeddings=gemma,
        attention_bias="all" if biases["all"] else "qkv" if biases["qkv"] else "none",
        ffn_bias=told.get("mlp_bias", False),
        tied_embeddings=tied,
        rope_base=told["rope_parameters"]["rope_theta"],
    )

    def layer(number: int) -> Parameters:
        at = f"model.layers.{number}."
        attention = [f"{at}self_attn.{part}_proj" for part in "qkvo"]
        ffn = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
        made = {
            "attention_norm": {"scale": weights[at + "input_layernorm.weight"]},
            "ffn_norm": {"scale": weights[at + "post_attention_layernorm.weight"]},
            "attention": _projections(*(weights[name + ".weight"] for name in attention), heads, groups),
            "ffn": {ours: weights[f"{at}mlp.{theirs}.weight"].T for ours, theirs in ffn.items()},
        }
        if biases["qkv"]:
            made["attention"] |= {
                f"{ours}_bias": weights[name + ".bias"].reshape(count, -1)
                for ours, name, count in zip(
                    ("query", "key", "value"), attention[:3], (heads, groups, groups), strict=True
                )
            }
        if biases["all"]:
            made["attention"]["out_bias"] = weights[attention[3] + ".bias"]
        if config.ffn_bias:
            made["ffn"] |= {f"{ours}_bias": weights[f"{at}mlp.{theirs}.bias"] for ours, theirs in ffn.items()}
        return made

    params = {
        "embedding": weights["model.embed_tokens.weight"],
        "stack": {"layers": _stacked(layer, config.num_layers)},
        "final_norm": {"scale": weights["model.norm.weight"]},
    }
    return config, params if tied else params | {"unembedding": weights["lm_head.weight"].T}


def _gpt_neox(told: dict[str, Any], weights: Weights) -> tuple[ModelConfig, Parameters]:
    heads, rope = told["num_attention_heads"], told["rope_parameters"]
    assert told["use_parallel_residual"]
    config = ModelConfig(
        num_layers=told["num_hidden_layers"],
        dim=told["hidden_size"],
        num_heads=heads,
        ffn={"gelu": "gelu_exact"}[told["hidden_act"]],
        ffn_dim=told["intermediate_size"],
        block="parallel",
        norm="layer",
        norm_eps=told["layer_norm_eps"],
        attention_bias="all",
        ffn_bias=True,
        tied_embeddings=told["tie_word_embeddings"],
        position={"name": "partial", "fraction": rope["partial_rotary_factor"]},
        rope_base=rope["rope_theta"],
    )
    size, dim = config.head_size, config.dim

    def norm(name: str) -> Parameters:
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def layer(number: int) -> Parameters:
        at = f"gpt_neox.layers.{number}."
        # One matrix, and in it head by head: the head's query, its key, its value.
        fused = weights[at + "attention.query_key_value.weight"].reshape(heads, 3, size, dim)
        biases = weights[at + "attention.query_key_value.bias"].reshape(heads, 3, size)
        attention = {name: fused[:, i].transpose(2, 0, 1) for i, name in enumerate(("query", "key", "value"))}
        attention |= {f"{name}_bias": biases[:, i] for i, name in enumerate(("query", "key", "value"))}
        attention["out"] = weights[at + "attention.dense.weight"].T.reshape(heads, size, dim)
        attention["out_bias"] = weights[at + "attention.dense.bias"]
        ffn = {"up": at + "mlp.dense_h_to_4h", "down": at + "mlp.dense_4h_to_h"}
        return {
            "attention_norm": norm(at + "input_layernorm"),
            "ffn_norm": norm(at + "post_attention_layernorm"),
            "attention": attention,
            "ffn": {ours: weights[f"{theirs}.weight"].T for ours, theirs in ffn.items()}
            | {f"{ours}_bias": weights[f"{theirs}.bias"] for ours, theirs in ffn.items()},
        }

    params = {
        "embedding": weights["gpt_neox.embed_in.weight"],
        "stack": {"layers": _stacked(layer, config.num_layers)},
        "final_norm": norm("gpt_neox.final_layer_norm"),
        "unembedding": weights["embed_out.weight"].T,
    }
    return config, params


FAMILIES: dict[str, Callable[[dict[str, Any], Weights], tuple[ModelConfig, Parameters]]] = {
    "t5": _t5,
    "llama": _llama,
    "qwen2": _llama,
    "gemma": _llama,
    "gpt_neox": _gpt_neox,
}


def _projections(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray, heads: int, groups: int
) -> Parameters:
    """PyTorch stores [out, in], lmarch [in, heads, K] and [heads, K, out]."""

    def split(x: np.ndarray, count: int) -> np.ndarray:
        return x.T.reshape(x.shape[1], count, -1)

    shape = (heads, -1, out.shape[0])
    return {
        "query": split(query, heads),
        "key": split(key, groups),
        "value": split(value, groups),
        "out": out.T.reshape(shape),
    }


def _stacked(layer: Callable[[int], Parameters], count: int) -> Parameters:
    return jax.tree.map(lambda *each: np.stack(each), *map(layer, range(count)))
