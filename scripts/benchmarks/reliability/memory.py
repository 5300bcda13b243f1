"""Long runs: what a command holds in memory in its middle and at its end."""

import statistics
import time
from pathlib import Path
from typing import Any

from fdif_jax.scripts.benchmarks.reliability.commands import PREDICTED, SCENES, TRAINED, Commands, end

FLAT = 0.05  # by which the memory may differ
_MIDDLE, _END = (0.5, 0.6), (0.9, 1.0)  # of a run's time, its start left out


def measure(
    commands: Commands, folder: Path, samples: int, steps: int, scans: int
) -> dict[str, dict[str, Any]]:
    """Bytes of generate, pretrain on scenes and on files, and predict, in the middle and at the end of a run."""
    many, scan = folder / "many", next((folder / "scans").iterdir())
    many.mkdir()
    for number in range(scans):
        (many / f"{number}.nii").write_bytes(scan.read_bytes())
    kept = f"--steps {steps} --val-every 0 --checkpoint-every {max(steps // 10, 1)}"
    runs = {
        f"generate, {samples} samples": f"{SCENES} --num-samples {samples}",
        f"pretrain, {steps} steps of scenes": f"{TRAINED} {kept}",
        f"pretrain, {steps} steps of files": f"pretrain --data {{data}} --size features=[4,8] {kept}",
        f"predict, {scans} scans": PREDICTED.replace("{scans}", str(many)),
    }
    return {
        what: _watched(commands, command, folder / f"long{number}")
        for number, (what, command) in enumerate(runs.items())
    }


def _watched(commands: Commands, command: str, out: Path) -> dict[str, Any]:
    process = commands.start(command, out)
    held: list[tuple[float, int]] = []
    while process.poll() is None:
        if bytes_ := _resident(process.pid):
            # What counts begins with the first result.
            held += [(time.monotonic(), bytes_)] if out.exists() and any(out.iterdir()) else []
        time.sleep(0.05)
    told = end(process)
    faults = [f"status {told.status}: {told.lines[-2:]}"] if told.status else []
    if len(held) < 20:
        return {"faults": [*faults, "too short to be measured"]}
    began, over = held[0][0], held[-1][0]
    middle, last = (
        statistics.median(b for t, b in held if low <= (t - began) / (over - began) <= high)
        for low, high in (_MIDDLE, _END)
    )
    if last > middle * (1 + FLAT):
        faults.append(f"{last / middle - 1:.1%} more at the end")
    return {"middle": middle, "end": last, "ratio": last / middle, "seconds": over - began, "faults": faults}


def _resident(process: int) -> int:
    """Bytes of memory that a process holds; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0
