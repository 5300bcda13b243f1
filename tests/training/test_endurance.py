"""`fdif pretrain` as real processes: killed again and again, asked to stop, with damaged files and nowhere to write.

A process is killed at some change of its run directory, so that the moments are the same on a busy machine: while it
begins, trains, records, validates, or is in the middle of writing a checkpoint.
"""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fdif_jax.training.runs import load_run
from tests.helpers.nnunet_client import environment

pytestmark = pytest.mark.slow(
    "commands in processes of their own that are killed and begun again, for minutes"
)

STEPS, SAVED, VALIDATED = 120, 5, 10
SCENES = "--grid 16 16 16 --primitives sphere --sdf-mappers inverse_cube --displacement-functions ridge"
SCENES += " --min-objects 1 --max-objects 2"
OPTIONS = f"{SCENES} --size features=[4,8] --lr 3e-3 --steps {STEPS} --val-samples 2"
OPTIONS += f" --val-every {VALIDATED} --checkpoint-every {SAVED} --ema 0.9"
COMMAND = [sys.executable, "-m", "fdif_jax.scripts.pretrain", *OPTIONS.split(), "--out"]


def _start(out, env, **options):
    return subprocess.Popen(
        [*COMMAND, os.fspath(out)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def _end(process, status=0):
    said, error = process.communicate(timeout=300)
    assert process.returncode == status, error[-2000:]
    return said, error


def _train(out, env, status=0, **options):
    return _end(_start(out, env, **options), status)


def _changes(out):
    """What is there of a run, with sizes and times, so that any change shows."""
    seen = set()
    for folder, _, names in os.walk(out):
        for name in names:
            try:
                stat = os.stat(os.path.join(folder, name))
            except FileNotFoundError:  # renamed or removed since
                continue
            seen.add((folder, name, stat.st_size, stat.st_mtime_ns))
    return seen


def _wait(process, out, checkpoints, changes):
    """Return after so many new checkpoints and then changes of the run directory, or when the process has ended."""
    first, before = max(_steps_on_disk(out), default=0), _changes(out)
    while process.poll() is None and (checkpoints or changes):
        now = _changes(out)
        if checkpoints and max(_steps_on_disk(out), default=0) >= first + checkpoints * SAVED:
            checkpoints = 0
        elif not checkpoints and now != before:
            changes -= 1
        before = now
        time.sleep(0.001)


def _weights(out):
    return load_run(out).weights()


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _steps_on_disk(out):
    return sorted(int(path.name) for path in out.glob("checkpoints/*") if path.name.isdigit())


def _assert_same_run(out, whole):
    """Weights to the bit; measurements of the same steps, once each and in order, that say the same."""
    ours, theirs = _weights(out), _weights(whole)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name].view(np.uint8), theirs[name].view(np.uint8), err_msg=name)
    assert _lines(out / "classes.jsonl") == _lines(whole / "classes.jsonl")
    measured = [
        {m["step"]: m | {"volumes_per_second": 0} for m in _lines(folder / "metrics.jsonl")}
        for folder in (out, whole)
    ]
    assert list(measured[0]) == sorted(measured[0]) and len(measured[0]) == len(_lines(out / "metrics.jsonl"))
    extra = measured[0].keys() - measured[1].keys()
    assert not measured[1].keys() - measured[0].keys()
    for step, values in measured[1].items():
        # A loss is the mean since the line before, so that a stop's line changes it in the next one.
        since = max((earlier for earlier in measured[1] if earlier < step), default=0)
        stopped = any(since < line < step for line in extra)
        assert measured[0][step] | ({"loss": values["loss"]} if stopped else {}) == values
    return extra


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, env):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    _train(out, env)
    assert [m["step"] for m in _lines(out / "metrics.jsonl")] == list(range(SAVED, STEPS + 1, SAVED))
    assert [line["step"] for line in _lines(out / "classes.jsonl")] == list(
        range(VALIDATED, STEPS + 1, VALIDATED)
    )
    return out


def test_a_run_killed_ten_times_ends_as_one_that_was_not(tmp_path, env, whole):
    out, drawn, reached = tmp_path / "run", random.Random(0), []
    for _ in range(10):
        process = _start(out, env)
        _wait(process, out, drawn.randint(0, 2), drawn.randint(1, 60))
        process.kill()
        _end(process, -signal.SIGKILL)
        reached.append(max(_steps_on_disk(out), default=0))
    print("newest checkpoint after each kill:", reached)
    assert reached == sorted(reached) and len(set(reached)) > 3
    _train(out, env)
    assert _assert_same_run(out, whole) == set()


def test_a_run_asked_to_stop_keeps_the_step_it_was_at(tmp_path, env, whole):
    out, drawn = tmp_path / "run", random.Random(1)
    stops = set()
    for _ in range(4):
        process = _start(out, env)
        _wait(process, out, 1, drawn.randint(1, 30))
        before = max(_steps_on_disk(out))
        process.terminate()
        _, error = _end(process, 130)
        assert "interrupted; the same command goes on from here" in error
        kept = max(_steps_on_disk(out))
        assert kept == _lines(out / "metrics.jsonl")[-1]["step"] and kept >= before
        stops.add(kept)
    print("stopped at", sorted(stops))
    _train(out, env)
    assert _assert_same_run(out, whole) == {step for step in stops if step % SAVED}


def _newest_with_a_flipped_bit(whole, out):
    """A copy of a run, one bit of whose newest weights is another."""
    shutil.copytree(whole, out)
    payload = max(
        (out / "checkpoints" / str(STEPS) / "weights").rglob("*"), key=lambda file: file.stat().st_size
    )
    content = bytearray(payload.read_bytes())
    content[2 * len(content) // 3] ^= 1
    payload.write_bytes(content)


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path, env, whole):
    _newest_with_a_flipped_bit(whole, tmp_path / "run")
    _, error = _train(tmp_path / "run", env)
    assert f"the checkpoint of step {STEPS} cannot be read" in error
    assert _assert_same_run(tmp_path / "run", whole) == set()


def _one_line(error):
    """What a command said that failed, which is a line, without the bar."""
    bar = ("training ", "compiling ")
    (line,) = [line for line in error.splitlines() if line.strip() and not line.startswith(bar)]
    return line


def test_a_directory_in_use_or_read_only_is_one_clear_line_and_stays_as_it_is(tmp_path, env, whole):
    out = tmp_path / "run"
    process = _start(out, env)
    _wait(process, out, 1, 0)
    _, error = _train(out, env, status=2)
    assert "another process is training here" in _one_line(error)
    _end(process)
    assert _assert_same_run(out, whole) == set()

    _assert_unprivileged_mounts()
    script = f'mount -t tmpfs none "$1" && mount -o remount,ro "$1" && exec {shlex.join(COMMAND)} "$1/run"'
    _, error = _end(_in_own_mounts(script, tmp_path, env), 2)
    assert "Read-only file system" in _one_line(error)


def _assert_unprivileged_mounts():
    if subprocess.run([*_MOUNTS, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount file systems of their own")


_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]


def _in_own_mounts(script, parent, env):
    (parent / "mount").mkdir(exist_ok=True)
    arguments = [*_MOUNTS, "bash", "-c", script, "bash", os.fspath(parent / "mount"), os.fspath(parent)]
    return subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


FULL_DISK = f"""
mount -t tmpfs -o size=32m none "$1" && head -c 33000000 /dev/zero >"$1/filler"
{shlex.join(COMMAND)} "$1/run" 2>"$2/first"
echo $? >"$2/status" && cp -r "$1/run" "$2/stopped" && rm "$1/filler"
{shlex.join(COMMAND)} "$1/run" && cp -r "$1/run" "$2/run"
"""


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory, env):
    """A run on a disk that is full after a few checkpoints, and goes on when there is room again."""
    _assert_unprivileged_mounts()
    folder = tmp_path_factory.mktemp("full")
    _end(_in_own_mounts(FULL_DISK, folder, env))
    return folder


def test_a_full_disk_loses_nothing_that_was_finished(full_disk, whole):
    assert (full_disk / "status").read_text() == "2\n"
    kept = _steps_on_disk(full_disk / "stopped")
    print("a full disk stopped the run after checkpoint", kept)
    assert kept and max(kept) < STEPS
    assert _assert_same_run(full_disk / "run", whole) == set()


def test_a_full_disk_is_one_clear_line(full_disk):
    line = _one_line((full_disk / "first").read_text())
    assert "No space left on device" in line and "/run" in line
