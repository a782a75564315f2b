"""Which field was meant: the nearest right name in the whole config, also for what other trainers call it."""

import dataclasses
import difflib
from collections.abc import Iterator

from lmarch.config.run import Config
from lmarch.errors import UserError

# What Hugging Face, nanoGPT, torchtitan and others call it: what lmarch does.
ELSEWHERE = {
    "adam_beta1": "train.optimizer.b1",
    "adam_beta2": "train.optimizer.b2",
    "batch_size": "data.batch_rows",
    "bf16": "model.compute_dtype",
    "block_size": "model.trained_length",
    "context_length": "model.trained_length",
    "d_ff": "model.ffn_dim",
    "d_kv": "model.head_dim",
    "d_model": "model.dim",
    "dataset": "data.corpus",
    "dtype": "model.compute_dtype",
    "eval_every": "train.eval_steps",
    "eval_interval": "train.eval_steps",
    "fp16": "model.compute_dtype",
    "global_batch_size": "data.batch_rows",
    "grad_clip": "train.clip_norm",
    "gradient_accumulation_steps": "train.accumulate",
    "gradient_checkpointing": "model.remat",
    "head_size": "model.head_dim",
    "hidden_act": "model.ffn",
    "hidden_dim": "model.dim",
    "hidden_size": "model.dim",
    "initializer_range": "model.init_std",
    "intermediate_size": "model.ffn_dim",
    "layer_norm_eps": "model.norm_eps",
    "log_interval": "train.log_steps",
    "logging_steps": "train.log_steps",
    "lr": "train.learning_rate",
    "lr_scheduler_type": "train.schedule",
    "max_grad_norm": "train.clip_norm",
    "max_iters": "train.steps",
    "max_length": "model.trained_length",
    "max_position_embeddings": "model.trained_length",
    "max_seq_len": "model.trained_length",
    "max_seq_length": "model.trained_length",
    "max_steps": "train.steps",
    "micro_batch_size": "train.accumulate",
    "n_embd": "model.dim",
    "n_head": "model.num_heads",
    "n_heads": "model.num_heads",
    "n_kv_heads": "model.num_kv_heads",
    "n_layer": "model.num_layers",
    "n_layers": "model.num_layers",
    "num_attention_heads": "model.num_heads",
    "num_hidden_layers": "model.num_layers",
    "num_key_value_heads": "model.num_kv_heads",
    "num_train_steps": "train.steps",
    "per_device_train_batch_size": "data.batch_rows",
    "resume_from": "train.start_from",
    "rms_norm_eps": "model.norm_eps",
    "rope_parameters": "model.position",
    "rope_scaling": "model.position",
    "rope_theta": "model.rope_base",
    "save_steps": "train.checkpoint_steps",
    "seq_len": "data.row_length",
    "seq_length": "data.row_length",
    "sequence_length": "data.row_length",
    "sliding_window": "model.window",
    "tie_word_embeddings": "model.tied_embeddings",
    "torch_dtype": "model.compute_dtype",
    "vocab_size": "data.tokenizer",
    "warmup_iters": "train.warmup_steps",
    "weight_decay": "train.optimizer.weight_decay",
}

LIKE = 0.7  # below that, difflib finds likeness everywhere


def every_field(group: type = Config, prefix: str = "") -> Iterator[str]:
    """`model.dim`, `train.steps`, ...: the fields of all groups."""
    for field in dataclasses.fields(group):
        name = f"{prefix}{field.name}"
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from every_field(field.type, f"{name}.")
        else:
            yield name


def field_meant(name: str, likeness: float = 1.0, owner: str | None = None) -> str | None:
    """The field that goes by this name, or one like it, here or in another trainer; None: there is none.

    Args:
      name: without a group, such as `learning_rate` or `lr`.
      likeness: how like the name must be, as difflib counts; 1: the same.
      owner: the group that it was looked for in, which is preferred; groups themselves are found too.
    """
    name = name.replace("-", "_")
    if name in ELSEWHERE:
        return ELSEWHERE[name]

    def like(field: str) -> float:
        group, _, leaf = field.rpartition(".")
        return difflib.SequenceMatcher(None, name, leaf).ratio() + 0.1 * (group == owner)

    known = list(every_field()) + (sorted({f.partition(".")[0] for f in every_field()}) if owner == "" else [])
    best = max(known, key=like)
    return best if like(best) >= likeness else None


def unknown_field(owner: str, name: str, group: type, where: str) -> UserError:
    """What to say of a field that `group` has not: the nearest right one, there or in the whole config.

    Args:
      owner: the dotted name of the group; empty for the whole config.
      where: how the field was given, for the message.
    """
    meant = field_meant(name, LIKE, owner)
    if name in ELSEWHERE:
        hint = f"lmarch calls it {meant!r}"
    elif meant:
        hint = f"did you mean {meant!r}?"
    else:
        hint = f"known: {', '.join(field.name for field in dataclasses.fields(group))}"
    return UserError(f"unknown field {name!r} in {where}; {hint}")
