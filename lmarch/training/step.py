"""One optimizer step as a pure function of (state, batch, rates): `{step, params, opt_state}` in, the same and metrics out.

All of the state is float32. The model rounds the parameters that it reads to `param_dtype`, and a gradient through that
rounding is float32 again, so micro-batches, moments and averages add up in float32 whatever the model computes in.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lmarch.config import Config
from lmarch.models.definition import ModelDefinition
from lmarch.models.language_model import Outputs
from lmarch.models.text import Text
from lmarch.objectives import Batch
from lmarch.training import sharding
from lmarch.training.optimizers import Rates, first_rates, make_optimizer

State = dict[str, Any]
Metrics = dict[str, jax.Array]


class Sums(NamedTuple):
    """Sums over target tokens, scalars of JAX or NumPy; means are taken once, over the whole batch."""

    nll: Any  # nats
    z: Any  # logsumexp(logits)^2
    tokens: Any
    bytes: Any
    added: Any  # what layers add to the loss, of each batch


def batch_outputs(definition: ModelDefinition, params: Any, batch: Batch[jax.Array], other_rows: int = 0) -> Outputs:
    """Return logits [B, T, V] for a batch of any objective and architecture; `other_rows` see `attend`."""
    source = None
    if batch.source_tokens is not None:
        source = Text(batch.source_tokens, batch.source_positions, batch.source_segment_ids)
    text = Text(
        tokens=batch.tokens,
        positions=batch.positions,
        segment_ids=batch.segment_ids,
        prefix_lengths=batch.prefix_lengths,
        block_positions=batch.block_positions,
    )
    return definition.outputs(params, text, source, other_rows=other_rows)


def loss_sums(definition: ModelDefinition, params: Any, batch: Batch[jax.Array], other_rows: int = 0) -> Sums:
    """Sum over the batch's weighted targets."""
    logits_BTV, added = batch_outputs(definition, params, batch, other_rows)
    log_normaliser_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, batch.targets[..., None], axis=-1)[..., 0]
    weights_BT = batch.weights
    return Sums(
        nll=((log_normaliser_BT - target_BT) * weights_BT).sum(),
        z=(log_normaliser_BT**2 * weights_BT).sum(),
        tokens=weights_BT.sum(),
        bytes=batch.target_bytes.sum(),
        added=jnp.asarray(added, jnp.float32),
    )


def summary(sums: Sums) -> dict[str, Any]:
    return {"loss": sums.nll / sums.tokens, "bits_per_byte": sums.nll / (math.log(2) * sums.bytes)}


def gradients(config: Config, definition: ModelDefinition, params: Any, batch: Batch[jax.Array]) -> tuple[Any, Sums]:
    """The gradient of the mean loss over all of the batch's targets, however many micro-batches it is cut into."""
    count = batch.weights.sum()

    def objective(params: Any, part: Batch[jax.Array]) -> tuple[jax.Array, Sums]:
        sums = loss_sums(definition, params, part, config.train.cross_batch)
        # Micro-batches have as many rows each: what layers add is a mean over them.
        return (sums.nll + config.train.z_loss * sums.z) / count + sums.added / config.train.accumulate, sums

    differentiate = jax.grad(objective, has_aux=True)
    parts = config.train.accumulate
    if parts == 1:
        return differentiate(params, batch)

    def cut(rows: jax.Array) -> jax.Array:  # interleaved, so that no row changes its device
        return rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)

    def add(total: Any, part: Batch[jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, differentiate(params, part)), None

    cut_batch = jax.tree.map(cut, batch)
    shapes = jax.eval_shape(differentiate, params, jax.tree.map(lambda rows: rows[0], cut_batch))
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, shapes), cut_batch)[0]


def initial_state(config: Config, axes: Any, params: Any) -> State:
    """What the first step begins from, with these parameters.

    Args:
      axes: their logical axis names.
    """
    optimizer = make_optimizer(config, axes, Rates(0.0, 0.0))
    state = {"step": jnp.zeros((), jnp.int32), "params": params, "opt_state": optimizer.init(params)}
    if config.train.average_decay is not None:
        state["average"] = jax.tree.map(jnp.copy, params)
    if config.train.skip_spikes is not None:
        state["norms"] = {"mean": jnp.zeros((), jnp.float32), "seen": jnp.zeros((), jnp.int32)}
    return state


def train_step(
    config: Config, definition: ModelDefinition, state: State, batch: Batch[jax.Array], rates: Rates
) -> tuple[State, Metrics]:
    """One step. A non-finite loss or gradient leaves the state as it was and reports `finite` = False."""
    grads, sums = gradients(config, definition, state["params"], batch)
    new, metrics = update(config, definition.axes, state, grads, rates)
    finite = jnp.isfinite(sums.nll) & jnp.isfinite(metrics["grad_norm"])
    kept = jax.tree.map(functools.partial(jnp.where, finite), new, state)
    return kept, {**summary(sums), **metrics, "target_tokens": sums.tokens, "finite": finite}


def update(config: Config, axes: Any, state: State, grads: Any, rates: Rates) -> tuple[State, Metrics]:
    """The state after a step along these gradients.

    A step that `skip_spikes` skips counts, and leaves weights, moments and their average as they were.

    Args:
      axes: the parameters' logical axis names.
      grads: float32, like the parameters.
    """
    norm = optax.global_norm(grads)
    updates, opt_state = make_optimizer(config, axes, rates).update(grads, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    new = {"step": state["step"] + 1, "params": params, "opt_state": opt_state}
    metrics = {"grad_norm": norm, "learning_rate": rates.learning_rate}
    if config.train.average_decay is not None:
        new["average"] = averaged(state["average"], params, config.train.average_decay, state["step"])
    if config.train.skip_spikes is not None:
        spike, norms = judge_norm(state["norms"], norm, config.train.skip_spikes)
        same = {name: state[name] for name in new.keys() - {"step"}}
        new |= jax.tree.map(functools.partial(jnp.where, spike), same, {name: new[name] for name in same})
        new["norms"], metrics["skipped"] = norms, spike.astype(jnp.float32)
    return new, metrics


def averaged(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """decay * average + (1 - decay) * params; with less decay in the first steps, which soon forget the initial weights."""
    now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: now * a + (1 - now) * p, average, params)


NORMS_BEFORE, NORM_DECAY = 20, 0.98


def judge_norm(norms: dict[str, jax.Array], norm: jax.Array, factor: float) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Whether a gradient norm is a spike, and the running mean of norms with it; nothing is one in the first 20 steps.

    A spike enters the mean as the largest norm that is none, so that norms which have grown for good are none in the end.
    """
    mean, seen = norms["mean"], norms["seen"]
    spike = (seen >= NORMS_BEFORE) & (norm > factor * mean)
    counted = jnp.where(spike, factor * mean, norm)
    decay = jnp.minimum(NORM_DECAY, seen / (seen + 1))  # a plain mean at first
    return spike, {"mean": decay * mean + (1 - decay) * counted, "seen": seen + 1}


def cures(config: Config) -> str:
    """What may make a loss finite, for the message about one that is not."""
    rounded = [name for name in ("param_dtype", "compute_dtype") if getattr(config.model, name) != "float32"]
    known = ["a lower train.learning_rate", "a longer warm-up", *(f"model.{name}=float32" for name in rounded)]
    return f"{', '.join(known[:-1])} or {known[-1]}"


class Program(NamedTuple):
    """The compiled functions of a run and where their arguments live."""

    mesh: Mesh
    abstract_state: State  # shapes, dtypes and shardings: what a checkpoint is restored into
    init: Callable[[], State]
    rates: Rates  # of every step of the run
    step: Any  # jitted (state, batch, rates) -> (state, metrics); donates the state
    evaluate: Callable[[Any, Batch[jax.Array]], Sums]


def make_program(config: Config, definition: ModelDefinition) -> Program:
    """Checks everything that can be checked without compiling (UserError), then wraps the functions in `jit`.

    Its step and its first weights are the same programs for all configs that differ in rates, length or seeds.
    """
    assert definition.specs  # builds position and window: a bad name or combination stops here
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_divisible(config, mesh, definition.shapes, definition.axes)

    def init(key: jax.Array) -> State:
        return initial_state(config, definition.axes, definition.init(key))

    key = jax.random.key(config.model.seed)
    shapes = jax.eval_shape(init, key)
    on_params = sharding.parameter_shardings(mesh, definition.axes)
    everywhere = sharding.replicated(mesh)
    on_opt_state = _like_parameters(shapes["opt_state"], shapes["params"], on_params, everywhere)
    shardings = {**jax.tree.map(lambda _: everywhere, shapes), "params": on_params, "opt_state": on_opt_state}
    if "average" in shapes:
        shardings["average"] = on_params
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    rows = sharding.row_sharding(mesh)
    step = jax.jit(
        functools.partial(train_step, config, definition),
        in_shardings=(shardings, rows, everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
    )
    evaluate = jax.jit(
        functools.partial(loss_sums, definition), in_shardings=(on_params, rows), out_shardings=everywhere
    )
    begin = functools.partial(jax.jit(init, out_shardings=shardings), key)
    return Program(mesh, abstract, begin, first_rates(config, config.total_steps), step, evaluate)


def _like_parameters(kept: Any, params: Any, on_params: Any, otherwise: Any) -> Any:
    """Shardings of what an optimizer keeps: a parameter's own for what has its name and shape.

    The rest is small: counts, and Adafactor's rows and columns.
    """
    flat, shardings = jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(on_params)
    by_name = {(path, leaf.shape): sharding for (path, leaf), sharding in zip(flat, shardings, strict=True)}

    def sharding(path: tuple, leaf: Any) -> Any:
        names = (path[start:] for start in range(len(path)))
        return next((by_name[name, leaf.shape] for name in names if (name, leaf.shape) in by_name), otherwise)

    return jax.tree_util.tree_map_with_path(sharding, kept)
