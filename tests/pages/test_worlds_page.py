"""docs/worlds.md: its commands run, at small sizes, and the mixture it shows is one."""

import re

import pytest

import fdif_jax as fd
from tests.helpers import nnunet_client
from tests.helpers.pages import run_page
from tests.helpers.paths import DOCS


@pytest.mark.slow("commands with whole recipes, in a shell")
def test_the_page_on_worlds(tmp_path):
    small = {
        "--num-samples 5000": "--num-samples 1 --grid 24 24 24",
        "data/mr": "data/mr --num-samples 1 --grid 16 16 16",
        "data/like": "data/like --num-samples 1 --grid 16 16 16",
    }
    nnunet_client.decathlon_folder(tmp_path)
    run_page("worlds.md", tmp_path, nnunet_client.environment(tmp_path), small)
    for name in ("avs", "bodies", "mixed", "grown", "mr", "like"):
        assert len(list((tmp_path / "data" / name).rglob("*_x.nii.gz"))) == 1


def test_the_mixture_on_the_page_is_one(tmp_path):
    tables = re.findall(r"```toml\n(.*?)```", (DOCS / "worlds.md").read_text(), re.DOTALL)
    (text,) = (table for table in tables if "[[parts]]" in table)
    (tmp_path / "mixture.toml").write_text(text)
    program = fd.compile(fd.load_recipe(tmp_path / "mixture.toml"))
    assert program.class_names == ("foreground",) and len(program.parts) == 2
