"""The settings of Figure 1 (A, B)."""

from dataclasses import dataclass
from typing import Literal

from sslstep.experiment.image_data import Source


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    data: Source = "photos"
    """Where the images come from: by name, or a folder of one's own."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10; TFDS's own default if not given."""
    num_images: int = 500
    """n, the number of positive pairs."""
    crop: int = 20
    """Side of a crop, in pixels; m = 3 crop^2."""
    dim: int = 10
    """Embedding dimension d."""
    init_scale: float = 1e-7
    """α, the standard deviation of the initial weights."""
    learning_rate: float = 5e-5
    """η of gradient descent."""
    num_steps: int | None = None
    """Steps of gradient descent; if not given, 1.2 times as many as the last mode needs."""
    num_records: int = 1000
    """Records along the run, logarithmically spaced."""
    standardise: bool = False
    """Standardise each colour channel; otherwise pixels are in [0, 1], not centred."""
    scales: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
    """α at which Result 4.6 is tested."""
    num_draws: int = 2000
    """Initialisations drawn for Eq. 21."""
    seed: int = 0
    """Seed of the choice of images, the crops and the initial weights."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of all computations."""
