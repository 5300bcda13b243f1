"""Grids in space, drawn at random, and scores on the way back to a file's grid."""

import nibabel as nib
import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fdif_jax.preprocessing.preparation import Way
from fdif_jax.preprocessing.spaces import labels_of_scores

SHAPES = st.tuples(*[st.integers(2, 9)] * 3)


@st.composite
def affines(draw):
    """Any axes, directions, turns, spacings and origin."""
    axes = np.eye(3)[list(draw(st.permutations(range(3))))] * draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True)
    spacing = draw(st.tuples(*[st.sampled_from([0.3, 0.7, 1.0, 2.5, 5.0])] * 3))
    oblique = draw(st.booleans())
    linear = (turn.as_matrix() if oblique else np.eye(3)) @ axes @ np.diag(spacing)
    return nib.affines.from_matvec(linear, draw(st.tuples(*[st.floats(-200, 200)] * 3)))


def scores_back(way: Way, scores: np.ndarray) -> np.ndarray:
    """Scores or logits ``(D, H, W, C)`` on the network's grid → class ids on the file's."""
    assert scores.shape[:3] == tuple(way.padded)
    return way.crop.uncrop(labels_of_scores(scores[way.content], way.crop.shape))
