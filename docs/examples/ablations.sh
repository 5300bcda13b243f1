#!/bin/sh
# The ablations of docs/results.md: what of the published task, how many volumes, and what of the weights a ResEnc U-Net
# needs on eight hippocampi; and released weights on 4, 16 and all cases. Begun again, it goes on where it stopped.
#
#     sh ablations.sh Task04_Hippocampus/dataset.json STUDY
set -eu
dataset=$1
study=$2
here=$(dirname "$0")

# learn NAME OPTIONS...
learn() {
  name=$1
  shift
  fdif pretrain "$@" --grid 32 40 32 --min-objects 3 --max-objects 8 --network resenc_unet --size tiny --batch-size 2 --lr 3e-3 \
    --ema 0.999 --val-every 0 --out "$study/pre/$name"
}

# compare OUT FINE-TUNING-OPTIONS OPTIONS...
compare() {
  out=$1 further=$2
  shift 2
  fdif experiment "$dataset" --steps 600 --lrs 1.5e-2 --seeds 3 --val-every 150 \
    --finetune="--patch 32 48 32 --mirror-axes 0 --size tiny --checkpoint-every 0 $further" --out "$study/$out" "$@"
}

fdif="--recipe fdif --no-mapper-as-augmentation"
four="sphere torus octahedron onioned_square_prism"
twelve="$four cone cylinder convex_cylinder concave_cylinder cone_cylinder triangle_prism pentagon_prism five_star_prism"
three="--sdf-mappers inverse_cube exponential_base_1.5 sinusoidal_wavelength_3.0"
one="--sdf-mappers inverse_cube"
learn mixed $fdif --primitives $four $three --steps 3000
learn shapes $fdif --primitives $twelve $one --steps 3000
learn textures $fdif --primitives sphere --steps 3000
learn rough $fdif --primitives $four $one --no-displacement-as-augmentation \
  --displacement-functions perlin_fine sawtooth --steps 3000
learn smooth $fdif --primitives $four $three --displacement-functions none --steps 3000
learn anatomix --recipe anatomix --objective contrast --steps 3000
learn long $fdif --primitives $four $three --steps 10000 --keep-every 500
for kept in 500 2500; do
  fdif export "$study/pre/long" --which $kept --out "$study/pre/step_$kept.safetensors"
done
fdif weights resenc-tiny --to safetensors --out "$study/pre/released.safetensors"
python "$here/altered_weights.py" "$study/pre"

compare eight "" --cases 8 --inits scratch resenc-tiny "mixed=$study/pre/mixed" "shapes=$study/pre/shapes" \
  "textures=$study/pre/textures" "rough=$study/pre/rough" "smooth=$study/pre/smooth" "anatomix=$study/pre/anatomix" \
  "volumes_1k=$study/pre/step_500.safetensors" "volumes_5k=$study/pre/step_2500.safetensors" "volumes_20k=$study/pre/long" \
  "encoder=$study/pre/encoder.safetensors" "rescaled=$study/pre/rescaled.safetensors"
compare layers "--layer-decay 0.5" --cases 8 --inits resenc-tiny
compare cases "" --cases 4 16 0 --inits scratch resenc-tiny
