#!/bin/sh
# The main job at small scale: formulas become volumes, a network pre-trains on them, its weights are exported, and the
# same network is fine-tuned on eight real MRI volumes, from the pre-trained weights and from scratch.
# Usage: sh scripts/demo.sh FDIF OUT
set -eu
fdif=$1
out=$2
# Few objects and six classes (shape × texture) that a small network can begin to tell apart within two minutes.
scenes="--recipe fdif --grid 40 40 40 --min-objects 3 --max-objects 8 --primitives sphere torus"
scenes="$scenes --no-mapper-as-augmentation --sdf-mappers inverse_cube exponential_base_1.5 sinusoidal_wavelength_3.0"
mri=tests/data/hippocampus/dataset.json

say() { printf '\n== %s\n' "$1"; }

say "1/5 generate: a few volumes to look at (the training makes its own as it goes)"
# shellcheck disable=SC2086
"$fdif" generate $scenes --num-samples 16 --num-val-samples 4 --visualize 4 --out "$out/dataset"

say "2/5 pre-train: scenes are drawn inside the training step"
# shellcheck disable=SC2086
"$fdif" pretrain $scenes --size tiny --steps 450 --lr 3e-3 --val-every 150 --out "$out/pretrain"

say "3/5 export: weights under PyTorch's names"
"$fdif" export "$out/pretrain" --out "$out/pretrained.safetensors"

say "4/5 fine-tune on eight hippocampus MRI, from the pre-trained weights"
"$fdif" finetune $mri --init "$out/pretrain" --cases 8 --steps 200 --lr 4e-3 --val-every 100 --out "$out/finetune"

say "5/5 the same from scratch, to compare"
"$fdif" finetune $mri --init scratch --size tiny --cases 8 --steps 200 --lr 4e-3 --val-every 100 --out "$out/scratch"

say "made in $out"
cat <<EOF
dataset/previews/*.png       scenes and their labels
dataset/data/                images and labels (NIfTI), data.json for MONAI
pretrain/curve.png           loss and Dice of the pre-training
pretrain/prediction.png      a synthetic volume, its label, the network's prediction
pretrained.safetensors       the weights, for PyTorch
finetune/prediction.png      a real MRI, its label, the prediction
finetune/curve.png           loss and Dice of the fine-tuning
scratch/                     the same without pre-training
EOF
printf '\nmean Dice on the four validation volumes: pre-trained %s, from scratch %s\n' \
    "$(sed -n 's/.*"mean_dice": *\([0-9.]*\).*/\1/p' "$out/finetune/metrics.json")" \
    "$(sed -n 's/.*"mean_dice": *\([0-9.]*\).*/\1/p' "$out/scratch/metrics.json")"
echo "(so few volumes and steps show that the parts work together, not how much pre-training brings)"
