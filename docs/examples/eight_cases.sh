#!/bin/sh
# The study "Three networks, eight cases" of docs/results.md: three networks, from scratch, after pre-training by classes
# and, where there are any, from released weights, on eight cases of two tasks. Begun again, it goes on where it stopped.
#
#     sh eight_cases.sh Task04_Hippocampus/dataset.json headneck/dataset.json STUDY
set -eu
hippocampus=$1
headneck=$2
study=$3

few="--primitives sphere torus octahedron onioned_square_prism cone cylinder --no-mapper-as-augmentation
  --sdf-mappers inverse_cube exponential_base_1.5 sinusoidal_wavelength_3.0 --min-objects 3 --max-objects 10"

# compare NETWORK RELEASED-OR-NOTHING "OPTIONS OF THE NETWORK" PRE-TRAINING-RATE PRE-TRAINING-STEPS STEPS RATE RATE
compare() {
  network="--network $1 --size $3"
  fdif pretrain --recipe fdif $few --grid 48 48 48 $network --lr "$4" --steps "$5" \
    --batch-size 4 --ema 0.999 --val-every 0 --out "$study/$1/class"
  for task in hippocampus headneck; do
    case $task in
      hippocampus) dataset=$hippocampus patch="--patch 32 48 32 --mirror-axes 0" ;;
      headneck) dataset=$headneck patch="--patch 48 48 48 --spacing 4.3 4.3 4 --mirror-axes none" ;;
    esac
    fdif experiment "$dataset" --inits scratch "class=$study/$1/class" ${2:+"released=$2"} --cases 8 --seeds 5 --steps "$6" \
      --lrs "$7" "$8" --jobs 2 --finetune="$network $patch --checkpoint-every 0" --out "$study/$1/$task"
  done
}

compare resenc_unet resenc-tiny tiny 4e-3 4500 800 5e-3 1.5e-2
compare unetr "" "feature_size=8 hidden_size=192 mlp_dim=768 num_heads=6" 2e-3 4500 1200 1e-3 3e-3
compare primus primus-tiny "tiny patch_embed_size=[4,4,4]" 1e-3 4500 1200 7e-4 2e-3
