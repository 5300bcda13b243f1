"""Where a fine-tuning begins: released weights, a run of ours, a PyTorch file, or from scratch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError, unknown
from fdif_jax.models import released
from fdif_jax.models.recognise import recognise
from fdif_jax.scripts.options.network import UNKNOWN_GRID, NetworkOptions, network_of, parse_size, planned
from fdif_jax.training.run_document import Start, Which
from fdif_jax.training.runs import load_run
from fdif_jax.weights.files import SUFFIXES, read_checkpoint
from fdif_jax.weights.state_dicts import to_torch_state_dict
from fdif_jax.weights.transfer import Transfer, transfer

SCRATCH = "scratch"


@dataclass(frozen=True, eq=False)
class Initial:
    """Pre-trained weights."""

    source: str  # the name of released weights, the run directory, or the file
    network: dict[str, Any]  # theirs, as plain data
    state: Mapping[str, np.ndarray]  # the weights, in PyTorch's names and layout
    token_grid: tuple[int, int, int] | None  # of their position embeddings, if they have any

    def put_into(self, model: nnx.Module) -> Transfer:
        """See `transfer`; the head starts fresh."""
        return transfer(model, self.state, source=self.source, head=False, token_grid=self.token_grid)

    def start(self, which: Which) -> Start:
        """For ``run.json``: where they are from; of a run, ``which`` checkpoint."""
        digest = hashlib.sha256()
        for name in sorted(self.state):
            digest.update(np.ascontiguousarray(self.state[name]).tobytes())
        return Start(self.source, digest.hexdigest(), which)


def read_initial(init: str, which: Which, options: NetworkOptions) -> Initial | None:
    """What ``--init`` names: released weights, a run directory, or a file of weights, whatever it is called; None from
    scratch. A path that there is goes before a name.

    ``which`` is the checkpoint of a run. What ``options`` say of the network must agree with that of a run or of
    released weights; of a file it is what weights do not tell.

    Raises:
        FdifError: there is no such run, file or name, or options contradict its network.
    """
    if init == SCRATCH:
        return None
    path = Path(init)
    if path.is_file() or (path.suffix in SUFFIXES and not path.is_dir()):
        return _of_file(init, options)
    if path.exists() or len(path.parts) > 1:
        return _of_run(init, which, options)
    if init not in released.names():
        raise unknown("--init", init, (SCRATCH, "RUN_DIR", "FILE", *released.names()))
    return _of_release(init, options)


def _of_run(init: str, which: Which, options: NetworkOptions) -> Initial:
    run = load_run(init)
    _check_agrees(options, init, run.network)
    original: Any = models.create(**run.network)
    run.restore(original, which)
    return _initial(init, run.network, original)


def _of_release(name: str, options: NetworkOptions) -> Initial:
    network = released.card_of(name).network | {"dtype": options.dtype}
    try:
        _check_agrees(options, name, network)
    except FdifError as error:
        asked = network_of(options, in_channels=1, grid=UNKNOWN_GRID, out_channels=network["out_channels"])
        told = released.nearest(asked) or f"none is of {asked['name']}"
        raise FdifError(f"{error}. Of the released weights {told}") from None
    return _initial(name, network, released.load(name))


def _initial(source: str, network: dict[str, Any], model: Any) -> Initial:
    tokens = model.token_grid() if hasattr(model, "token_grid") else None
    return Initial(source, network, to_torch_state_dict(model), tokens)


def _of_file(init: str, options: NetworkOptions) -> Initial:
    if options.plans is not None:
        raise FdifError(f"--plans and --init {init}: the file says the network; leave --plans out")
    named = options.network if options.network != NetworkOptions.network else None
    found = recognise(read_checkpoint(init), source=init, network=named, size=parse_size(options.size))
    network = found.network | {"dtype": options.dtype}
    return Initial(init, network, found.state, token_grid_of(network))


def token_grid_of(network: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Tokens along each axis of the grid that a network of position embeddings is for."""
    if "grid" not in network:
        return None
    abstract: Any = nnx.eval_shape(lambda: models.create(**models.segmenting(network, 2)))
    return abstract.token_grid()


def _check_agrees(options: NetworkOptions, init: str, pretrained: Mapping[str, Any]) -> None:
    """What is asked for beside a run's network must be that network's."""
    like = planned(options)
    asked = (like.network if like else {}) | parse_size(options.size)
    asked |= {"name": options.network} if options.network != NetworkOptions.network else {}
    asked |= {"dtype": options.dtype} if options.dtype != NetworkOptions.dtype else {}
    for name, value in asked.items():
        if value != pretrained.get(name):
            said = {"name": "--network", "preset": f"--size {value}", "dtype": "--dtype"}
            option = said.get(name, f"--size {name}")
            option = f"--plans ({name})" if like and name in like.network else option
            raise FdifError(
                f"{option} contradicts {init}, whose network is {dict(pretrained)}; leave it out, "
                "or give --init scratch"
            )
