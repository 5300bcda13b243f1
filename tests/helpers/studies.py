"""Studies whose runs are made up."""

import json
import sys
import textwrap

import pytest

RUNNER = "fdif_jax.scripts.jobs.side_by_side"
FAKE = """
import json, os, sys, time
from pathlib import Path

command, *arguments = sys.argv[1:]
options = {}
for word in arguments:
    if word.startswith("--"):
        options[name := word[2:]] = ""
    elif options:
        options[name] = f"{options[name]} {word}".strip()
out, steps = Path(options["out"]), int(options.get("steps", 3))
with open(os.environ["FAKE_CALLS"], "a") as file:
    told = {"command": command, "cores": sorted(os.sched_getaffinity(0)), "time": time.time()}
    file.write(json.dumps(told | options) + "\\n")
time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
out.mkdir(parents=True, exist_ok=True)
(out / "run.json").write_text("{}")
if str(out) in os.environ.get("FAKE_FAILS", "").split(":"):
    print(f"fdif {command}: error: {out}: the loss is nan", file=sys.stderr)
    sys.exit(2)
if command == "pretrain":
    (out / "checkpoints" / str(steps)).mkdir(parents=True)
    sys.exit()
dice = 0.5 + 0.01 * int(options["cases"]) + 0.1 * (options["init"] != "scratch") + 0.02 * int(options["seed"]) % 0.06
dice -= 10 * abs(float(options["lr"]) - (1e-3 if options["init"] == "scratch" else 4e-3))
cases = {f"case{i}": dice + 0.01 * i for i in range(4)}
lines = [{"step": step, "loss": 1.0, "dice": dice * step / steps} for step in range(1, steps + 1)]
(out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
(out / "metrics.json").write_text(json.dumps({"mean_dice": dice + 0.015, "dice": {"A": dice}, "cases": cases}))
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Runs are done by a program that makes up its Dice; gives what has been run."""
    program, log = tmp_path / "fake.py", tmp_path / "calls.jsonl"
    program.write_text(textwrap.dedent(FAKE))
    monkeypatch.setenv("FAKE_CALLS", str(log))
    monkeypatch.setattr(
        f"{RUNNER}.program", lambda job: [sys.executable, str(program), job.command, *job.arguments]
    )
    monkeypatch.setattr(f"{RUNNER}._POLL_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    return lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
