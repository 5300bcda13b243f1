"""Volumes for PyTorch trainers: the same samples however they are shared out, and no copies."""

import itertools
import os
import pickle
import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.rendering.look import normalise
from fdif_jax.scenes.compiler import Program
from tests.helpers.paths import ROOT
from tests.helpers.slow import quick_of

torch = pytest.importorskip("torch")

import fdif_jax.torch as volumes  # noqa: E402
from fdif_jax.torch import VolumeDataset  # noqa: E402

RECIPE = fd.Recipe(grid=(12, 14, 16), primitives=("sphere", "torus"), max_objects=3)


class Numbered(Program):
    """Its sample i is filled with i."""

    def sample_at(self, seed, index):
        drawn.append(index)
        return jnp.full(self.grid, index % 251, jnp.uint8), jnp.full(self.grid, index, jnp.uint16)


drawn: list[int] = []
NUMBERED = Numbered(fd.Recipe(grid=(2, 2, 2)))


@pytest.fixture(scope="module")
def program():
    return fd.compile(RECIPE)


@pytest.fixture
def cached(monkeypatch):
    """Other processes find what this one compiled."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def numbers(batches) -> list[list[int]]:
    """The samples of each batch of `NUMBERED`."""
    return [label[:, 0, 0, 0, 0].tolist() for _, label in batches]


def of_worker(dataset, worker: int, workers: int) -> list[list[int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volumes, "get_worker_info", lambda: SimpleNamespace(id=worker, num_workers=workers))
        return numbers(dataset)


@given(
    world_size=st.integers(1, 4),
    workers=st.integers(1, 3),
    batch_size=st.integers(1, 4),
    length=st.integers(1, 40),
    start=st.integers(0, 100),
)
def test_ranks_and_workers_share_an_epoch_out(world_size, workers, batch_size, length, start):
    options = {"batch_size": batch_size, "length": length, "start": start, "world_size": world_size}
    ranks = []
    for rank in range(world_size):
        dataset = VolumeDataset(NUMBERED, rank=rank, **options)
        alone = numbers(dataset)
        assert len(dataset) == len(alone)
        assert all(len(batch) == batch_size for batch in alone[:-1])
        # A loader takes one batch of each worker in turn: the batches without workers, in their order.
        each = [of_worker(dataset, worker, workers) for worker in range(workers)]
        dealt = [batch for turn in itertools.zip_longest(*each) for batch in turn if batch]
        assert dealt == alone
        ranks.append(alone)
    everything = [i for batches in ranks for batch in batches for i in batch]
    assert sorted(everything) == list(range(start, start + length))
    # Step t of all ranks together is the t-th block of the epoch.
    first = sorted(i for batches in ranks if batches for i in batches[0])
    assert first == list(range(start, start + min(length, batch_size * world_size)))


def test_a_stream_without_end_goes_on_where_it_stopped():
    stream = VolumeDataset(NUMBERED, batch_size=3, rank=1, world_size=2)
    assert numbers(itertools.islice(stream, 3)) == [[1, 3, 5], [7, 9, 11], [13, 15, 17]]
    resumed = VolumeDataset(NUMBERED, batch_size=3, rank=1, world_size=2, start=12)
    assert numbers(itertools.islice(resumed, 1)) == [[13, 15, 17]]
    with pytest.raises(TypeError, match="no end"):
        len(stream)


def test_only_a_few_batches_are_drawn_ahead():
    dataset = VolumeDataset(NUMBERED, batch_size=2)
    drawn.clear()
    iterator = iter(dataset)
    assert not drawn
    for step in range(1, 5):
        next(iterator)
        assert drawn == list(range(2 * (step + 2)))


@pytest.mark.parametrize("batch_size", quick_of([1, 3], [], "a program each; files come in tests/batches"))
def test_batches_are_the_programs_samples(program, batch_size):
    """Bit by bit, whatever the size of a batch."""
    dataset = VolumeDataset(program, seed=5, batch_size=batch_size, length=5, start=2)
    assert dataset.program is program
    batches = list(dataset)
    assert [len(image) for image, _ in batches] == ([1] * 5 if batch_size == 1 else [3, 2])
    for image, label in batches:
        assert image.dtype == torch.float32 and label.dtype == torch.int64
        assert image.shape == label.shape == (len(image), 1, *RECIPE.grid)
        assert image.is_contiguous() and label.is_contiguous() and image.device.type == "cpu"
    look = jax.jit(normalise)
    for i, (image, label) in enumerate(zip(*map(torch.cat, zip(*batches, strict=True)), strict=True)):
        expected_image, expected_label = program.sample_at(5, 2 + i)
        np.testing.assert_array_equal(image[0], look(expected_image[None])[0])
        np.testing.assert_array_equal(label[0], expected_label)


def test_samples_grey_values_and_names(program):
    dataset = VolumeDataset(program, batch_size=None, length=2, normalise=False, keys=("data", "target"))
    assert len(dataset) == 2
    for i, sample in enumerate(dataset):
        image, label = program.sample_at(0, i)
        assert list(sample) == ["data", "target"] and sample["data"].dtype == torch.float32
        np.testing.assert_array_equal(sample["data"], image[None])
        np.testing.assert_array_equal(sample["target"], label[None])
    # PyTorch's own batching takes them too.
    (batch,) = torch.utils.data.DataLoader(dataset, batch_size=2)
    assert batch["data"].shape == batch["target"].shape == (2, 1, *RECIPE.grid)


def test_the_label_is_what_losses_take():
    ((image, label),) = VolumeDataset(NUMBERED, batch_size=2, length=2)
    logits = torch.zeros(2, 5, 2, 2, 2)
    loss = torch.nn.functional.cross_entropy(logits, label[:, 0])
    assert loss.item() == pytest.approx(np.log(5))
    monai = pytest.importorskip("monai.losses")
    assert torch.isfinite(monai.DiceCELoss(to_onehot_y=True, softmax=True)(logits, label))
    assert image.dtype == torch.float32


@pytest.mark.parametrize("batch_size", [None, 2])
def test_nothing_is_copied_and_the_trainer_may_write(program, monkeypatch, batch_size):
    made: list = []

    def watched(function):
        def call(*arguments, **options):
            made.append(function(*arguments, **options))
            return made[-1]

        return call

    # The last of JAX's functions that a batch goes through.
    last = "_finish" if batch_size is None else "_stack"
    monkeypatch.setattr(volumes, last, watched(getattr(volumes, last)))
    dataset = VolumeDataset(program, batch_size=batch_size, length=6, normalise=False)
    clean = [(image.clone(), label.clone()) for image, label in dataset]
    made.clear()
    for n, (image, label) in enumerate(dataset):
        assert (image.data_ptr(), label.data_ptr()) == tuple(a.unsafe_buffer_pointer() for a in made[n])
        for got, want in zip((image, label), clean[n], strict=True):
            assert torch.equal(got, want)
            got.mul_(0).sub_(7)  # what is written here is in no later sample
    assert n == len(clean) - 1


@pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=pytest.mark.slow("two processes that compile"))]
)
def test_spawned_workers_give_what_no_workers_give(program, cached, workers):
    dataset = VolumeDataset(program.recipe, batch_size=2, length=5, keys=("image", "label"))
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    images = torch.cat([batch["image"] for batch in batches])
    for i in range(5):
        image, label = program.sample_at(0, i)
        np.testing.assert_array_equal(images[i], jax.jit(normalise)(image[None]))
        np.testing.assert_array_equal(batches[i // 2]["label"][i % 2, 0], label)


def test_forked_workers_are_told_what_to_do(program):
    jax.block_until_ready(program.sample_at(0, 0))
    loader = torch.utils.data.DataLoader(
        VolumeDataset(program), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    with pytest.warns(RuntimeWarning, match="fork"), pytest.raises(FdifError) as caught:
        next(iter(loader))
    assert 'num_workers=0 or multiprocessing_context="spawn"' in str(caught.value)


PROCESS = """
import sys
import torch.distributed as dist
import fdif_jax as fd
from fdif_jax.torch import VolumeDataset

rank, store, recipe = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dataset = VolumeDataset(recipe, batch_size=2, length=5)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
for image, label in dataset:
    print(len(dataset), *(f"{int(one.sum())}" for one in label))
dist.destroy_process_group()
"""


@pytest.mark.slow("two processes that compile")
def test_two_processes_share_an_epoch(program, cached, tmp_path):
    program.recipe.save(tmp_path / "recipe.toml")
    arguments = [str(tmp_path / "store"), str(tmp_path / "recipe.toml")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), *arguments], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    lines = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    a, b, c, d, e = (int(program.sample_at(0, i)[1].astype(int).sum()) for i in range(5))
    assert lines == [[f"2 {a} {c}", f"2 {e}"], [f"1 {b} {d}"]]


def test_a_worker_is_of_the_rank_of_its_process(monkeypatch):
    dataset = VolumeDataset(NUMBERED.recipe, length=10)
    unbound = pickle.dumps(dataset)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    bound = pickle.dumps(dataset)
    assert len(dataset) == len(pickle.loads(unbound)) == 3
    monkeypatch.undo()
    assert len(pickle.loads(bound)) == 3
    assert len(pickle.loads(unbound)) == 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, not 1.5"),
        ({"length": 0}, "length must be 1 to 4294967296, not 0"),
        ({"start": 10, "length": 2**32}, "length must be 1 to 4294967286"),
        ({"start": -1}, "start must be 0 to"),
        ({"seed": 2**32}, "seed must be 0 to 4294967295"),
        ({"rank": 0}, "give both or neither"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to 1, not 2"),
        ({"rank": 0, "world_size": 0}, "world_size must be at least 1"),
        ({"device": "mps"}, "device must be cpu, cuda or cuda:<number>, not mps"),
        ({"keys": ("image", "image")}, "keys must be two different names"),
        ({"source": "fdiff"}, "did you mean 'fdif'"),
    ],
)
def test_impossible_options_are_named(options, says):
    with pytest.raises(FdifError, match=re.escape(says)):
        VolumeDataset(**({"source": NUMBERED} | options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(FdifError, match="JAX and PyTorch share no GPU"):
        next(iter(VolumeDataset(NUMBERED, device="cuda:0")))
    with (
        pytest.raises(FdifError, match="workers draw on the CPU"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(volumes, "get_worker_info", lambda: SimpleNamespace(id=0, num_workers=1))
        next(iter(VolumeDataset(NUMBERED, device="cuda")))


def test_a_missing_pytorch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "fdif_jax.torch")
    with pytest.raises(FdifError, match=r"needs torch, .* 'fdif-jax\[torch\]'"):
        import fdif_jax.torch  # noqa: F401


@pytest.mark.slow("a process of its own")
def test_the_engine_and_the_commands_start_without_pytorch():
    code = "import sys, fdif_jax.scripts.bench; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


@pytest.mark.slow("MONAI's SwinUNETR is trained")
def test_the_example_trains_swinunetr(tmp_path, monkeypatch, capsys):
    pytest.importorskip("monai")
    RECIPE.save(tmp_path / "small.toml")
    arguments = ["--recipe", str(tmp_path / "small.toml"), "--grid", "64", "32", "32"]
    arguments += ["--steps", "3", "--batch-size", "1"]
    monkeypatch.setattr(sys, "argv", ["train", *arguments, "--out", str(tmp_path / "net.pth")])
    runpy.run_path(str(ROOT / "docs/examples/train_monai_swinunetr.py"), run_name="__main__")
    printed = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"step \d: loss ([\d.]+)", printed)]
    assert len(losses) == 3 and all(np.isfinite(losses)) and len(set(losses)) == 3
    assert float(re.search(r"([\d.]+) volumes/s", printed)[1]) > 0
    assert torch.load(tmp_path / "net.pth", weights_only=True)
