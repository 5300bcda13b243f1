#!/bin/sh
# Run the GPU programme (`fdif bench gpu`) from a checkout, on a machine that may have no network: what cannot be imported
# is taken from .wheels/, which scripts/gpu_wheels.sh fills. Nothing is installed into the machine's Python.
# Usage: sh scripts/gpu.sh [OPTIONS OF fdif bench gpu]; PYTHON says which Python.
set -eu
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
site=${SITE:-${TMPDIR:-/tmp}/fdif-gpu-site}

# The checkout as the one package that an installation would make of it, and its name and last release.
version=$(sed -n 's/^fallback_version = "\(.*\)"/\1/p' "$root/pyproject.toml")
about="$site/fdif_jax-$version.dist-info"
rm -rf "$site/fdif_jax"
mkdir -p "$site/fdif_jax" "$about"
printf 'Metadata-Version: 2.1\nName: fdif-jax\nVersion: %s\n' "$version" >"$about/METADATA"
cp -R "$root/fdif_jax/." "$site/fdif_jax/"
for folder in shapes models scripts; do cp -R "$root/$folder" "$site/fdif_jax/$folder"; done

missing() {
  "$python" - "$site" <<'PYTHON'
import importlib.util
import sys

sys.path.insert(0, sys.argv[1])
wanted = "nibabel tyro isal tomli_w platformdirs tensorboardX trimesh igl grain monai dynamic_network_architectures filelock"
print(*(name for name in wanted.split() if importlib.util.find_spec(name) is None))
PYTHON
}
lacking=$(missing)
if [ -n "$lacking" ] && [ -d "$root/.wheels" ]; then
  echo "not importable here: $lacking; taken from .wheels"
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" --upgrade "$root"/.wheels/*.whl
  lacking=$(missing)
fi
[ -z "$lacking" ] || echo "still not importable: $lacking (sh scripts/gpu_wheels.sh fetches them)" >&2

cd "$root"
PYTHONSAFEPATH=1 PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m fdif_jax.scripts.bench gpu "$@"
