"""Part `pretraining`: weights pre-trained for as long as there is time, exported and brought back."""

import dataclasses
import json
from pathlib import Path

from fdif_jax.scripts import cli, export, pretrain
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.benchmarks.parts import Steps
from fdif_jax.scripts.jobs.prepared import prepare

_USED = 0.85  # of the time goes into steps, the rest into validation and writing


def measure(size: Size, figures: Figures, seconds: float) -> None:
    """Pre-train for about ``seconds``, or as long as is asked for, and export the weights.

    The number of steps follows from a measured rate and is written down; with it the same command makes them again.
    """
    out = figures.folder / "pretrained"
    with figures.alone():
        config = cli.parsed("pretrain", pretrain, [*size.pretrain, "--out", str(out)])
        steps_file = figures.folder / "pretraining_steps.json"
        if steps_file.exists():  # a run that was cut off goes on
            steps = json.loads(steps_file.read_text())
        else:
            turns = Steps(prepare(config))
            turns(0)
            a_step = min(turns(turn) for turn in range(1, 4))
            steps = max(20, round(_USED * min(seconds, size.pretrain_seconds) / a_step / 20) * 20)
            steps_file.write_text(json.dumps(steps))
            figures.add("seconds_a_step", a_step)
        figures.add("steps", steps)
        every = max(10, steps // 5)
        config = dataclasses.replace(config, steps=steps, val_every=every, checkpoint_every=every)
        pretrain.run(config)
    history = (out / "metrics.jsonl").read_text().splitlines()
    figures.add("validated", [json.loads(line) for line in history if "score" in line])
    weights = figures.folder / "weights.safetensors"
    export.run(cli.parsed("export", export, [str(out), "--to", "safetensors", "--out", str(weights)]))
    figures.add("weights_bytes", Path(weights).stat().st_size)
