"""Where an accelerator's time goes: its own trace of a call, summed by kernel."""

import collections
import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_MOST = 24  # kernels that are named


def kernels_of(call: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds and number of the kernels that a call (which waits for its end) runs, the longest first.

    Each is named with the operation of the program that it was made for, where the trace tells it.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    spent: dict[str, list[float]] = collections.defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and "GPU" in processes.get(event["pid"], ""):
            about = event.get("args", {})
            if "hlo_op" not in about and "correlation_id" not in about:
                continue  # what holds kernels, not a kernel
            source = about.get("tf_op") or about.get("name") or about.get("hlo_op") or ""
            spent[f"{event['name'][:80]} | {source[-120:]}"].append(event["dur"] / 1e3)
    total = sum(map(sum, spent.values()))
    longest = sorted(spent.items(), key=lambda item: -sum(item[1]))[:_MOST]
    return {
        "total_ms": total,
        "kernels": [{"name": n, "ms": round(sum(ms), 3), "count": len(ms)} for n, ms in longest],
    }
