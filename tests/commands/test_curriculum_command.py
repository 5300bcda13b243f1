"""`fdif pretrain --curriculum`: how it is asked for, what it shows and refuses; test_objectives_command trains."""

from functools import partial
from pathlib import Path

import pytest
import tyro

from fdif_jax.scripts import cli, pretrain
from fdif_jax.scripts.console.watching import TrainingBar
from fdif_jax.scripts.jobs.prepared import prepare
from fdif_jax.scripts.options.presets import preset_of

SMALL = {
    "grid": (8, 8, 8), "primitives": ("sphere", "torus"), "min_objects": 3, "max_objects": 8, "steps": 2,
    "sdf_mappers": ("contour",), "displacement_functions": ("none",),
    "size": ("features=[4,8]",), "val_every": 0, "curriculum": ("goal=0.8", "objects=0.5"),
}  # fmt: skip


def _config(out, **changes):
    return pretrain.Config(**{"out": out} | SMALL | changes)


def test_it_is_asked_for_by_an_option_or_a_preset(tmp_path):
    def asked(*arguments, default=None):
        words = ["--out", "run", *arguments]
        return tyro.cli(pretrain.Config, args=words, default=default).curriculum

    assert asked() is None and asked("--curriculum") == ()
    assert asked("--curriculum", "goal=0.6", "scale=2", "--steps", "3") == ("goal=0.6", "scale=2")
    preset = tmp_path / "mine.toml"
    preset.write_text('curriculum = ["goal=0.6"]\n')
    mine = preset_of(["--preset", str(preset)], partial(pretrain.Config, out=Path("run")))
    assert mine.curriculum == ("goal=0.6",)
    assert asked(default=mine) == ("goal=0.6",) and asked("--curriculum", "None", default=mine) is None


def test_the_bar_shows_how_far_scenes_have_grown():
    bar = TrainingBar(9)
    bar.show(4, {"loss": 1.5, "competence": 0.254, "objects": 6})
    assert "loss 1.500  competence 0.25  6 objects" in bar._progress.tasks[0].fields["measured"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--curriculum", "goal"], "--curriculum goal: must be name=value, as goal=0.5"),
        (["--curriculum", "gaol=0.5"], "unknown key in curriculum: 'gaol'; did you mean 'goal'?"),
        (["--curriculum", "goal=2"], "goal of the curriculum must be above 0 and at most 1, not 2"),
        (["--curriculum", "--data", "somewhere"], "--curriculum: --data has no scenes that could follow it"),
        (["--curriculum", "--task", "classification"], "--task classification has no scenes that could follow it"),
        (["--curriculum", "--objective", "contrast"], "the objective 'contrast' does not learn; add class to it"),
        (["--curriculum", "--primitives", "sphere"], "weighs classes, and the recipe has one; give two or more"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        cli.run("pretrain", ["--out", str(tmp_path / "run"), *options])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and message in said, said
    assert not (tmp_path / "run").exists()


def test_without_it_scenes_are_those_of_the_recipe(tmp_path):
    source = prepare(_config(tmp_path, curriculum=None)).source
    assert source.course is None
    assert prepare(_config(tmp_path)).source.course.objects == 8
