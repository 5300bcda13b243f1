"""Part `pretraining`: weights pre-trained for as long as there is time, exported and brought back."""

import dataclasses
import json
import time

from fdif_jax.scripts import cli, export, pretrain
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.benchmarks.parts import Steps
from fdif_jax.scripts.jobs.prepared import prepare

_USED = 0.8  # of the time that is left after compiling goes into steps, the rest into writing


def measure(size: Size, figures: Figures, seconds: float) -> None:
    """Pre-train and export within ``seconds``.

    The number of steps follows from a measured rate and is written down; with it the same command makes them again.
    Nothing is validated, which would compile another program.
    """
    begin, out = time.monotonic(), figures.folder / "pretrained"
    config = cli.parsed("pretrain", pretrain, [*size.pretrain, "--out", str(out)])
    counted = figures.folder / "pretraining_steps.json"
    if not counted.exists():  # a run that was cut off goes on
        turns = Steps(prepare(config))
        figures.add("compile_seconds", turns.compile_seconds)
        with figures.alone():
            turns(0)
            a_step = min(turns(turn) for turn in range(1, 4))
        left = min(seconds - (time.monotonic() - begin), size.pretrain_seconds)
        counted.write_text(json.dumps(max(20, round(_USED * left / a_step / 20) * 20)))
        figures.add("seconds_a_step", a_step)
    steps = json.loads(counted.read_text())
    figures.add("steps", steps)
    every = max(10, steps // 4)
    config = dataclasses.replace(
        config, steps=steps, warmup=min(200, steps // 10), val_every=0, checkpoint_every=every
    )
    start = time.monotonic()
    with figures.alone():
        pretrain.run(config)
    figures.add("seconds", time.monotonic() - start)
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    figures.add("history", history[:: max(1, len(history) // 40)] + history[-1:])
    weights = figures.folder / "weights.safetensors"
    export.run(cli.parsed("export", export, [str(out), "--to", "safetensors", "--out", str(weights)]))
    figures.add("weights_bytes", weights.stat().st_size)
