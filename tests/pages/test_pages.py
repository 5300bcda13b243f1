"""The pages on how to begin run as they are printed, at small sizes, and say what they show."""

import importlib.util
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import fdif_jax as fd
from fdif_jax import models, shapes
from fdif_jax.anatomy.bank import Bank
from fdif_jax.datasets.reader import load_dataset
from fdif_jax.models import released
from fdif_jax.scenes.recipe import from_dict
from fdif_jax.scripts import cli
from fdif_jax.scripts.jobs import suited
from fdif_jax.scripts.options.network import network_of
from fdif_jax.training.runs import load_run
from fdif_jax.weights.files import read_weights
from fdif_jax.weights.state_dicts import load_torch_state_dict
from tests.helpers.nnunet_client import decathlon_folder
from tests.helpers.pages import blocks, run_here
from tests.helpers.paths import ANATOMY, DOCS

# Taken last, an option overrides what the page says. The same scenes everywhere, so that they are compiled once.
FEW = "--grid 16 16 16 --primitives sphere torus --min-objects 1 --max-objects 2"
FEW += " --sdf-mappers inverse_cube --displacement-functions ridge"
SHORT = "--network resenc_unet --size features=[4,8] --steps 2 --val-every 2 --val-samples 1"
UNVALIDATED = SHORT.replace("--val-every 2", "--val-every 0")
PLAIN = "min_objects=1, max_objects=2, mappers=('inverse_cube',), displacements=()"
SMALL_RECIPE = "replace(grid=(16, 16, 16), primitives=('sphere',), min_objects=1, max_objects=2)"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_shapes", None)  # a page's file, which another of its files imports


@pytest.mark.slow("a page of many commands; the README's are in test_readme")
def test_start(capsys):
    small = {
        "--grid 64 64 64 --visualize 2": f"{FEW} --visualize 2",
        "--preset quick": f"--preset quick {FEW} {SHORT}",
        "replace(grid=(64, 64, 64))": SMALL_RECIPE,
    }
    names = run_here("start.md", small, capsys)
    assert len(list(Path("scenes/previews").glob("*.png"))) == 2
    assert read_weights("first.safetensors").keys() and load_run("runs/first").history[-1]["step"] == 2
    assert names["image"].shape == names["label"].shape == (16, 16, 16)


@pytest.mark.slow("a page of many commands, each with programs of its own")
def test_author(capsys):
    small = {
        "fdif view my_shapes.py:pebble": "fdif view my_shapes.py:pebble --size 64 --resolution 24",
        "fdif check my_shapes.py": "fdif check my_shapes.py --members 4 --grid 24 24 24",
        "fdif check my_looks.py": "fdif check my_looks.py --members 4 --grid 24 24 24",
        "fdif check my_formula.py": "fdif check my_formula.py --members 4 --grid 24 24 24",
        "--num-samples 8": f"--num-samples 2 {FEW.replace('sphere torus', 'pebble torus')}",
        "--preset quick": f"{FEW.replace('--primitives sphere torus', '')} {UNVALIDATED}",
        "--num-samples 4": "--num-samples 1 --grid 16 16 16 --min-objects 1 --max-objects 2",
        "grid=(48, 48, 48)": f"grid=(16, 16, 16), {PLAIN}",
    }
    names = run_here("author.md", small, capsys)
    assert names["label"].max() == 1
    document = load_run("runs/pebbles").document
    assert document.network["out_channels"] == 2
    assert document.recipe["vocabulary"][-1] == "my_shapes.py"
    image = np.asarray(nib.load("shells/data/image/batch_0000/sample_00000_x.nii.gz").dataobj)
    assert set(np.unique(image)) <= {0, 128} and image.any()  # the page's mapper has two values


@pytest.mark.slow("a page of many commands, each with programs of its own")
def test_tutorial(capsys):
    """Its families are short, check without a mistake, and are ten classes that a network is trained on."""
    page = (DOCS / "tutorial.md").read_text()
    files = {file: code for _, file, code in blocks(page) if file}
    assert len(files) == 5 and max(code.count("\n") for code in files.values()) <= 25
    small = {
        "--members 4": "--members 2 --size 64 --resolution 24",
        "fdif check kidney.py": "\n".join(f"fdif check {file} --members 4 --grid 24 24 24" for file in files),
        "--num-samples 8": "--num-samples 2 --grid 16 16 16 --min-objects 1 --max-objects 2",
        "--preset quick": f"--preset quick --grid 16 16 16 --min-objects 1 --max-objects 2 {UNVALIDATED}",
    }
    run_here("tutorial.md", small, capsys)
    assert load_run("runs/organs").document.network["out_channels"] == 1 + 10 * 3  # of three mappers each
    assert len(load_dataset("organs").tasks[0].class_names) == 10
    for file in files:
        assert Path("check", file).with_suffix(".png").is_file()


@pytest.mark.slow("every line of a long page")
def test_algebra():
    """Every line of code makes a shape, or an image, and has a picture that was made of it."""
    spec = importlib.util.spec_from_file_location("make_algebra", DOCS / "make_algebra.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    page = (DOCS / "algebra.md").read_text()
    known, lines = make.names(page), list(make.lines(page))
    points = fd.Grid(12, 12, 12).points()
    for path, code in lines:
        values = np.asarray(eval(code, known)(points))
        assert values.shape == (12, 12, 12) and np.isfinite(values).all() and values.min() < values.max()
        assert (DOCS / path).read_bytes().startswith(b"\x89PNG")
    assert len(lines) == page.count("![]") == len(list((DOCS / "algebra").iterdir()))
    assert sum(path.stat().st_size for path in (DOCS / "algebra").iterdir()) < 500_000
    functions = [
        f"fd.{n}"
        for n in fd.__all__
        if getattr(fd, n).__module__.startswith("fdif_jax.sdf.")
        and n not in ("node", "static")
        and n.islower()
    ]
    made = ("solids", "rods", "polyhedra", "lattices", "profiles", "flat")
    functions += [
        f"shapes.{n}" for n in shapes.__all__ if getattr(shapes, n).__module__.rpartition(".")[2] in made
    ]
    assert len(functions) > 70
    for name in functions:
        assert name in page, f"the page on the algebra lacks {name}"


@pytest.mark.slow("programs of the page's own")
def test_compiler(capsys):
    small = {
        "(48, 48, 48), primitives": f"(16, 16, 16), {PLAIN}, primitives",
        '("sphere", "torus", "cone")': "('sphere',)",
        "(48, 48, 48), twice": "(16, 16, 16), twice",
    }
    names = run_here("compiler.md", small, capsys)
    assert names["images"].shape == (3, 16, 16, 16) and np.isfinite(names["slope"])


@pytest.mark.slow("a page of many commands, each with programs of its own")
def test_generate(capsys):
    pytest.importorskip("torch")
    small = {
        "--num-samples 100 --num-val-samples 10": f"--num-samples 2 --num-val-samples 1 {FEW}",
        "--grid 64 64 64 --num-samples 20": f"--num-samples 1 {FEW}",
        "--dataset-name Shapes --num-samples 20": f"--dataset-name Shapes --num-samples 1 {FEW}",
        "grid=(32, 32, 32)": "grid=(16, 16, 16), mappers=('inverse_cube',), displacements=()",
    }
    names = run_here("generate.md", small, capsys)
    assert tuple(names["images"].shape) == (2, 1, 16, 16, 16)
    assert Path("nnUNet_raw/Dataset901_Shapes/dataset.json").is_file()


@pytest.mark.slow("whole recipes, each with a program of its own")
def test_recipes(capsys):
    decathlon_folder(Path.cwd())
    tiny = "--size features=[4,8] --steps 2 --val-every 2 --val-samples 1"
    tuned = "--steps 1 --val-every 0 --cases 2 --val-cases 1 --patch 16 16 16 --batch-size 1"
    avs = "--grid 16 16 16 --min-objects 1 --max-objects 2"
    small = {
        "--recipe avs_db --grid 64 64 64 --num-samples 2": f"--recipe avs_db {avs} --num-samples 1",
        "--recipe anatomy --grid 64 64 64 --num-samples 2": f"--recipe anatomy {avs} --num-samples 1",
        "--recipe fdif --size tiny --batch-size 2 --steps 3000": f"--recipe fdif {FEW} {tiny}",
        "--recipe avs_db --size tiny --batch-size 2 --steps 3000": f"--recipe avs_db {avs} {tiny}",
        "--cases 8 --steps 500": tuned,
    }
    run_here("recipes.md", small, capsys)
    assert len(fd.shipped_recipes()) == 11


@pytest.mark.slow("a page of many commands, each with programs of its own")
def test_fine_tune(capsys, calls, monkeypatch):
    """The study's runs are made up (`helpers.studies.calls`); steps that nobody gives are two."""
    monkeypatch.setitem(suited._STEPS, "cpu", (1, 2, 2))
    decathlon_folder(Path.cwd())
    small = {
        "--preset quick": f"--preset quick {FEW} {UNVALIDATED}",
        "--init scratch --size tiny": "--init scratch --size features=[4,8]",
        "--cases 8 --steps 1000": "--cases 8 --steps 1 --val-every 0 --val-cases 1 --batch-size 1",
        "--cases 4 8 16 0 ": "--cases 2 4 0 ",
        "--inits": "--tune-cases 2 --tune-val 2 --inits",
    }
    run_here("fine-tune.md", small, capsys)
    assert Path("runs/tuned/metrics.json").is_file() and Path("runs.png").is_file()
    scans = len(list(Path("Task04_Hippocampus/imagesTr").iterdir()))
    for kind in ("*.nii.gz", "*.npz", "uncertainty/*.nii.gz"):
        assert len(list(Path("predictions").glob(kind))) == scans
    assert "| cases |" in Path("study/table.md").read_text().lower() and calls()


def test_anatomy(capsys):
    """Commands on a bank, of the one subject that is in the tests."""
    data = ANATOMY
    Path("names.json").write_text(json.dumps(json.loads((data / "label_names.json").read_text())["mr"]))
    Path("case_1.nii.gz").symlink_to(data / "subject03_abdomen_mr_label.nii.gz")
    small = {"--lr 4e-3 --steps 3000": "--grid 16 16 16 --spacing 9 9 9 --size features=[4,8] --steps 2"}
    run_here("anatomy.md", small, capsys)
    assert Bank.load("bank.npz").organs


@pytest.mark.parametrize(
    "page",
    [DOCS / "performance.md", DOCS / "reliability.md", DOCS / "results.md", DOCS / "scale.md"],
    ids=lambda page: page.stem,
)
def test_commands_of_pages_of_measurements_are_accepted(page):
    """They take a GPU's minutes or hours: their options are read, and that is all."""
    accepted = 0
    for language, _, code in blocks(page.read_text()):
        if language == "sh":
            for line in code.replace("\\\n", " ").replace("examples/", f"{DOCS}/examples/").splitlines():
                program, command, *arguments = shlex.split(line, comments=True)
                if program == "python":
                    script = Path(command).read_text()
                    assert all(f'"{word}"' in script for word in arguments if word.startswith("--"))
                else:
                    cli.parsed(command, cli.module_of(command), arguments)
                accepted += 1
    assert accepted


@pytest.mark.parametrize(
    "script, expected",
    [
        (["eight_cases.sh", "one/dataset.json", "two/dataset.json"], 3 * ["pretrain", *2 * ["experiment"]]),
        (
            ["ablations.sh", "one/dataset.json"],
            [*7 * ["pretrain"], "export", "export", "weights", *3 * ["experiment"]],
        ),
    ],
    ids=lambda value: value[0],
)
def test_commands_of_a_study_are_accepted(script, expected):
    fdif, python = Path("bin/fdif"), Path("bin/python")
    fdif.parent.mkdir()
    fdif.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))")
    python.write_text("#!/bin/sh\ntest -f $1")
    for file in (fdif, python):
        file.chmod(0o755)
    script = [DOCS / "examples" / script[0], *script[1:], "study"]
    paths = f"{fdif.parent.absolute()}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", *script], env=os.environ | {"PATH": paths}, capture_output=True, text=True, check=True
    )
    commands = list(map(json.loads, ran.stdout.splitlines()))
    assert [command for command, *_ in commands] == expected
    for command, *arguments in commands:
        config = cli.parsed(command, cli.module_of(command), arguments)
        if command == "experiment":
            given = [str(config.dataset), *shlex.split(config.finetune)]
            config = cli.parsed("finetune", cli.module_of("finetune"), [*given, "--out", "run"])
        if command in ("pretrain", "experiment"):
            network_of(config, in_channels=1, grid=(48, 48, 48), out_channels=3)


def test_altered_weights_are_what_they_are_called(monkeypatch, capsys):
    cli.run("weights", ["resenc-tiny", "--to", "safetensors", "--out", "released.safetensors"])
    monkeypatch.setattr(sys, "argv", ["altered_weights.py", "."])
    runpy.run_path(str(DOCS / "examples/altered_weights.py"))
    assert "times as long, median 3." in capsys.readouterr().out
    files = ("released", "encoder", "rescaled")
    trained, encoder, rescaled = (safetensors.numpy.load_file(f"{name}.safetensors") for name in files)
    for name, array in trained.items():
        if name.endswith("conv.weight"):
            assert np.array_equal(encoder[name], array) == (".stages" not in name or "encoder" in name), name
    x, logits = np.random.default_rng(0).normal(size=(1, 16, 16, 16, 1)).astype(np.float32), []
    for state in (trained, rescaled):
        model = models.create(**released.card_of("resenc-tiny").network)
        load_torch_state_dict(model, state)
        logits.append(np.asarray(nnx.jit(lambda model, x: model(x))(model, x)))
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-3 * np.abs(logits[0]).max())


@pytest.mark.slow("a pre-training, and a network over two scans")
def test_scans_are_segmented_without_any_having_been_trained_on(monkeypatch, capsys):
    cli.run("pretrain", f"--preset quick {FEW} {SHORT} --out run".split())
    Path("scans").mkdir()
    scan = np.random.default_rng(0).normal(size=(24, 20, 22)).cumsum(0).astype(np.float32)
    affine = np.diag([2.0, 1.0, 1.5, 1.0])
    ahead = nib.Nifti1Image(scan, affine)
    nib.save(ahead, "scans/ahead.nii.gz")
    other_axes = [[1, -1], [0, 1], [2, 1]]
    nib.save(ahead.as_reoriented(other_axes), "scans/aside.nii.gz")
    names = fd.compile(from_dict(load_run("run").document.recipe)).class_names

    def segmented(*more):
        argv = ["without_scans.py", "run", "scans/ahead.nii.gz", "scans/aside.nii.gz", "--classes", names[1]]
        argv += ["--spacing", "1.5", "1", "1", "--intensities", "-5", "5", "--out", "found"]
        monkeypatch.setattr(sys, "argv", [*argv, *more])
        runpy.run_path(str(DOCS / "examples/without_scans.py"), run_name="__main__")
        return [nib.load(f"found/{name}.nii.gz") for name in ("ahead", "aside")]

    first, second = segmented()
    assert first.shape == scan.shape and np.allclose(first.affine, affine)
    assert first.get_data_dtype() == np.uint8
    assert set(np.unique(first.dataobj)) <= {0, 1}
    back = nib.as_closest_canonical(second)
    assert np.mean(np.asarray(back.dataobj) == np.asarray(first.dataobj)) > 0.99
    segmented("--labels", "found")  # judged by itself
    assert "mean 1.000" in capsys.readouterr().out or not np.asarray(first.dataobj).any()


def test_bodies_are_two_shipped_recipes_on_one_grid():
    bodies = fd.load_recipe(DOCS / "examples/bodies.toml")
    for part, name in zip(bodies.parts, ("head", "anatomy_grouped"), strict=True):
        recipe = fd.load_recipe(name)
        placement = recipe.placement.to_dict() | {"spacing": list(part.recipe.placement.spacing)}
        assert part.recipe == recipe.replace(grid=bodies.grid, spacing=bodies.spacing, placement=placement)
    channels = released.card_of("resenc-bodies").network["out_channels"]
    assert channels == 1 + fd.compile(bodies).num_classes


def test_the_table_of_recipes_is_right():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (DOCS / "recipes.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert {row[0].strip("`") for row in rows} == set(fd.shipped_recipes())
    for name, classes, objects, *_ in rows:
        recipe = fd.load_recipe(name.strip("`"))
        most, least = recipe.max_objects, recipe.min_objects
        assert objects == (f"{least}" if least == most else f"{least} to {most}") and recipe.grid == (96,) * 3
        assert fd.compile(recipe).num_classes == int(classes)
