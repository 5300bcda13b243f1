"""How XLA compiles for a command: each program once a machine, and on a GPU without searches that take minutes."""

import importlib.util
import os

import platformdirs

# XLA tries fusions and matrix products by Triton, too, and compiles every candidate. Of 3D volumes these are large, and
# a training step took more than three minutes to compile on an H200 (JAX 0.11.2). Around a softmax that Triton shall
# fuse it tries a great many tilings, half of a transformer's compilation. Convolutions are still tuned.
_SEARCHES = {
    "xla_gpu_experimental_enable_fusion_autotuner": "false",
    "xla_gpu_enable_triton_gemm": "false",
    "xla_disable_hlo_passes": "triton-softmax-rewriter",
}
# Versions of JAX that know these flags; XLA ends a process over one it does not know.
_KNOWN = ((0, 10), (0, 11))
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def keep_compiled_programs() -> None:
    """Compile each program once a machine: keep what XLA makes in the user's cache directory."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", platformdirs.user_cache_dir("fdif-jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def has_gpu_plugin() -> bool:
    """Whether JAX may compute on a CUDA device here; tells it without starting JAX."""
    return any(map(importlib.util.find_spec, _PLUGINS))


def leave_out_searches() -> None:
    """Turn off XLA's searches on CUDA devices, but those that ``XLA_FLAGS`` names; before JAX computes anything."""
    import jax

    if jax.__version_info__[:2] not in _KNOWN or not has_gpu_plugin():
        return
    flags = os.environ.get("XLA_FLAGS", "")
    off = [f"--{name}={value}" for name, value in _SEARCHES.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *off]).strip()
