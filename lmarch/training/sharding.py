"""Where everything lives: the mesh, and the one table from logical axes to mesh axes.

`data` splits rows and copies parameters; `fsdp` splits rows and parameters; `tensor` splits heads, feed-forward and
vocabulary. One device is the degenerate case of all three.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmarch.config import Config, MeshConfig
from lmarch.errors import UserError
from lmarch.objectives import Batch

RULES: dict[str, str | None] = {
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "head_dim": None,
    "layers": None,
    "positions": None,
    "buckets": None,
    "mlp_bias": None,
}
ROWS = ("data", "fsdp")  # the mesh axes that split a batch


def make_mesh(mesh: MeshConfig) -> Mesh:
    """The mesh over all devices; raises UserError if the axes do not multiply to their number."""
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    devices, fixed = jax.device_count(), 1
    for size in sizes.values():
        fixed *= size if size > 0 else 1
    if devices % fixed or (-1 not in sizes.values() and fixed != devices):
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise UserError(f"config.mesh ({given}) does not divide {devices} devices: their product must be {devices}")
    shape = tuple(devices // fixed if size == -1 else size for size in sizes.values())
    return jax.make_mesh(shape, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def check_divisible(config: Config, mesh: Mesh, shapes: Any, axes: Any) -> None:
    """Refuses a mesh that does not divide the batch or a parameter, naming both, before anything is compiled."""
    splits, rows = mesh.shape["data"] * mesh.shape["fsdp"], config.data.batch_rows // config.train.accumulate
    if rows % splits:
        raise UserError(
            f"config.data.batch_rows / train.accumulate = {rows} rows do not divide over data x fsdp = {splits} devices"
        )

    def check(path: Any, names: tuple[str, ...], shape: jax.ShapeDtypeStruct) -> None:
        for name, size in zip(names, shape.shape, strict=True):
            axis = RULES[name]
            if axis and size % mesh.shape[axis]:
                where = jax.tree_util.keystr(path, simple=True, separator=".")
                raise UserError(
                    f"config.mesh.{axis}={mesh.shape[axis]} does not divide the {size} {name} of parameter {where}"
                )

    jax.tree_util.tree_map_with_path(check, axes, shapes, is_leaf=lambda x: isinstance(x, tuple))


def parameter_shardings(mesh: Mesh, axes: Any) -> Any:
    def sharding(names: tuple[str, ...]) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(RULES[name] for name in names)))

    return jax.tree.map(sharding, axes, is_leaf=lambda x: isinstance(x, tuple))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def row_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(ROWS))


def put_rows(batch: Batch[np.ndarray], mesh: Mesh) -> Batch[jax.Array]:
    """This process's rows of a batch, as global arrays split over the mesh."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(row_sharding(mesh), rows), batch)
