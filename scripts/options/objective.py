"""The options of what is learnt of a scene, and of how scenes follow it."""

from fdif_jax.batches.curriculum import Curriculum
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


def curriculum_of(config: PretrainingOptions) -> Curriculum | None:
    """How scenes follow what was learnt, by ``--curriculum``; None without it.

    Raises:
        FdifError: an unknown setting or an impossible value, or ``--objective`` has no class.
    """
    if config.curriculum is None:
        return None
    if "class" not in parse_objective(config.objective):
        raise FdifError(
            f"--curriculum: it follows the Dice of classes, which the objective {config.objective!r} does not learn; "
            "add class to it"
        )
    return Curriculum.from_dict(parse_settings("curriculum", config.curriculum, "goal=0.5"), "curriculum")
