"""From a shape to where it is and to its surface: samples on a grid, meshes by marching cubes, files and pages of them.

The meshes are scikit-image's (Lewiner's marching cubes); files and the page's viewer (three.js) are trimesh's.
"""

import dataclasses
import functools
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from skimage.measure import marching_cubes
from trimesh.viewer.notebook import scene_to_html
from trimesh.visual.material import PBRMaterial

from fdif_jax.errors import FdifError
from fdif_jax.sdf.masks import extent
