"""docs/pretraining.md: its commands run at small sizes, the heavy ones and those of clusters are what they should be.

All in this process, for most of such a command's time is Python starting and programs being traced.
"""

import re
import shlex
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from fdif_jax import models
from fdif_jax.scripts import cli, pretrain
from fdif_jax.scripts.jobs.training_sources import source_of
from fdif_jax.scripts.options.network import network_of
from fdif_jax.scripts.options.presets import SHIPPED
from fdif_jax.scripts.options.training import plan_of
from fdif_jax.training.runs import load_run
from tests.helpers.paths import DOCS

PAGE = (DOCS / "pretraining.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
# Taken last, an option overrides what the page says.
VOLUMES = ["--grid", "16", "16", "16"]
SCENES = [
    *VOLUMES,
    *["--sdf-mappers", "inverse_cube", "--displacement-functions", "ridge", "--max-objects", "2"],
]
SCENES += ["--min-objects", "1", "--primitives", "sphere"]
SHORT = [
    "--network",
    "resenc_unet",
    "--size",
    "features=[4,8]",
    "--steps",
    "2",
    "--val-every",
    "2",
    "--val-samples",
    "1",
]
SMALL = {
    "runs/quick": [*SCENES, *SHORT],
    "runs/labels": [*SCENES, *SHORT],
    "data/shapes": [*SCENES, "--num-samples", "2", "--num-val-samples", "1"],
    "runs/files": SHORT,
}


def _commands():
    """Every command of the page as words, without a launcher before it and without comments."""
    for line in "".join(BLOCKS).splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words[words[0] == "srun" :]


def _pretrainings():
    return [words[2:] for words in _commands() if words[:2] == ["fdif", "pretrain"]]


@pytest.mark.slow("a page of many commands, each with programs of its own")
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = set()
    for words in _commands():
        out = words[words.index("--out") + 1] if "--out" in words else words[-1]
        if words[0] == "fdif" and (words[1] != "pretrain" or out in SMALL):
            cli.run(words[1], [*words[2:], *SMALL.get(out, [])])
            ran.add(out)
    assert ran == {*SMALL, "quick.pth", "runs", "runs.png"}
    said = " ".join(capsys.readouterr().out.split())
    (text,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    for line in text.splitlines():
        pattern = re.sub(r"\d+(?:\\?[.,]\d+)*", r"[\\d.,]+", re.escape(line)).replace("classes", "class(es)?")
        assert re.search(pattern, said), f"{line!r} is not said by\n{said}"

    told = re.search(r"## The run directory\n(.*?)\n## ", PAGE, re.DOTALL)[1]
    there = {path.name for path in (tmp_path / "runs/quick").iterdir() if path.name != ".lock"}
    named = {
        name.rstrip("/")
        for column in re.findall(r"^\|(.*?)\|", told, re.MULTILINE)
        for name in column.split("`")
    }
    assert there == {name for name in named if re.fullmatch(r"\w+[.\w]*", name)} - {"damaged"}

    course, sample = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(course, {})
    assert capsys.readouterr().out == "5 1.5\n"
    exec(sample, {})
    assert (tmp_path / "sample_12.png").stat().st_size > 1000
    assert load_run("runs/labels").network["outputs"] == [1, 2, 1]
    assert np.isfinite(load_run("runs/files").history[-1]["loss"])


CHANGES_NO_SCENE = {
    "out": "run",
    "preset": None,
    "size": (),
    "devices": 0,
    "shard_weights": False,
    "distributed": None,
}
CHANGES_NO_SCENE |= {"steps": 9, "batch_size": 1, "accumulate": 1, "ema": 0, "clip": 0}


@cache
def _source(config):
    return source_of(config, None)


@pytest.mark.parametrize("arguments", [pytest.param(a, id=a[-1]) for a in _pretrainings()])
def test_every_pretraining_of_the_page_is_possible(arguments, tmp_path):
    """Options, plan, network and scenes are checked as the command checks them; nothing is trained."""
    config = cli.parsed("pretrain", pretrain, arguments)
    plan = plan_of(config, config.steps, config.seed)
    parts = max(config.devices, 1) * config.accumulate
    assert plan.batch_size % parts == 0
    if config.distributed:
        assert config.distributed == "auto" or re.fullmatch(r"node0:9876,[01]/2", config.distributed)
    if config.data is None:
        source = _source(replace(config, **CHANGES_NO_SCENE))
        spec = network_of(config, in_channels=1, grid=source.grid, **source.head)
        assert jax.eval_shape(lambda: models.create(**spec)) is not None


def test_presets_on_the_page_are_those_that_are_shipped():
    rows = re.findall(
        r"^\| `([\w-]+)` \| `(\w+)`.*?\| `(\w+)`, (\d+)³.*?\| (\d+), ([\d,]+) \|$", PAGE, re.MULTILINE
    )
    assert {row[0] for row in rows} == {path.stem for path in SHIPPED.glob("*.toml")}
    for name, network, recipe, edge, batch, steps in rows:
        config = cli.parsed("pretrain", pretrain, ["--preset", name, "--out", "run"])
        assert (config.network, config.recipe, config.batch_size) == (network, recipe, int(batch))
        assert config.steps == int(steps.replace(",", ""))
        assert _source(replace(config, **CHANGES_NO_SCENE)).grid[0] == int(edge)
