"""What the README says runs."""

import re

import numpy as np

from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text()


def test_the_python_examples_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    exec(blocks[0], names)
    assert names["distance"].shape == (64, 64, 64) and (np.asarray(names["distance"]) < 0).any()
    assert float(names["image"].max()) > 0
    assert all(np.isfinite(leaf).all() for leaf in __import__("jax").tree.leaves(names["slope"]))
    # The second example, on a smaller distribution so that it compiles quickly.
    small = 'replace(grid=(24, 24, 24), categories=("basic",))'
    exec(blocks[1].replace("replace(grid=(64, 64, 64))", small), names)
    assert names["image"].shape == names["label"].shape == (24, 24, 24)


def test_every_command_is_in_the_readme_and_exists():
    from fdif_jax.scripts.cli import COMMANDS

    assert set(re.findall(r"`fdif ([\w-]+)", README)) == set(COMMANDS)
