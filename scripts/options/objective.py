"""The options of what is learnt of a scene."""

from fdif_jax.errors import FdifError
from fdif_jax.objectives.combined import parse_objective
from fdif_jax.objectives.contrast import Contrast
from fdif_jax.scripts.options.pretraining import PretrainingOptions
from fdif_jax.scripts.options.settings import parse_settings


def contrast_of(config: PretrainingOptions) -> Contrast:
    """How voxels are contrasted, by ``--contrast``; FdifError if impossible, or ``--objective`` has no contrast."""
    if config.contrast and "contrast" not in parse_objective(config.objective):
        raise FdifError(f"--contrast: the objective {config.objective!r} has no contrast; leave it out")
    return Contrast.from_dict(parse_settings("contrast", config.contrast, "temperature=0.33"), "contrast")
