"""`config.mesh`: on which devices."""

import dataclasses

from lmarch.errors import require


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 takes all that are left. Carries no meaning for what is computed."""

    data: int = -1  # devices that rows are split over
    fsdp: int = 1  # devices that rows, parameters and optimizer state are split over
    tensor: int = 1  # devices that heads and feed-forward widths are split over

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        for name, size in zip(("data", "fsdp", "tensor"), sizes, strict=True):
            require(size == -1 or size > 0, f"config.mesh.{name}", size, "must be above 0, or -1 for all that are left")
        require(sizes.count(-1) <= 1, "config.mesh", sizes, "may leave only one axis at -1")
