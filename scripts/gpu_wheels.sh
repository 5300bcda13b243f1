#!/bin/sh
# Fetch into .wheels/ what a GPU machine without a network lacks for `make gpu`: wheels for Python 3.12 on Linux.
# Such a machine has JAX for CUDA, Flax, Optax, Orbax, PyTorch, NumPy and SciPy; nothing of CUDA is fetched.
# Usage: sh scripts/gpu_wheels.sh [PYTHON]
set -eu
python=${1:-python3}
folder=.wheels
most=60 # MiB

# What fdif-jax imports, and what that needs; then what PyTorch's originals are built from.
packages="nibabel tyro docstring-parser typeguard isal tomli-w platformdirs tensorboardX trimesh libigl grain array-record
portpicker filelock monai dynamic-network-architectures==0.4.4 timm==1.0.22"

platforms=""
for version in 2_28 2_27 2_26 2_24 2_17 2_12 2_5; do
  platforms="$platforms --platform manylinux_${version}_x86_64"
done
rm -rf "$folder"
mkdir -p "$folder"
# shellcheck disable=SC2086
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  $platforms --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d "$folder" $packages
size=$(du -sm "$folder" | cut -f1)
echo "$folder: $(ls "$folder" | wc -l) wheels, $size MiB"
if [ "$size" -gt "$most" ]; then
  echo "$folder: more than $most MiB" >&2
  exit 1
fi
