"""A fine-tuned network as a results folder of nnU-Net, which ``nnUNetv2_predict`` runs.

Source: the folder that ``nnUNetv2_train`` of nnU-Net 2.8 leaves, as far as its predictor reads it.
"""

import re
from pathlib import Path
from typing import Any

from flax import nnx

from fdif_jax import models
from fdif_jax.io.files import write_json
from fdif_jax.preprocessing.nnunet_plans import plans_of
from fdif_jax.scripts.exports.finetuned import FineTuned, painted_in, write_folder
from fdif_jax.scripts.jobs.exporting import built_by_nnunet
from fdif_jax.weights.files import save_torch
from fdif_jax.weights.nnunet_files import NnunetNetwork, nnunet_checkpoint
from fdif_jax.weights.state_dicts import to_torch_state_dict

_PLANS = "fdifPlans"
_USAGE = """
In nnU-Net, with scans as NAME_0000.nii.gz, one file a channel:

nnUNet_results={out} nnUNetv2_predict -d {dataset} -tr {trainer} -p {plans} -c 3d_fullres -f {folds}{step} \
-i SCANS -o LABELS"""


def write_results(tuned: FineTuned, out: Path) -> None:
    """Write all folds of a run as nnU-Net's folder of a dataset's trainings, and print what predicts with it.

    FdifError if nnU-Net has not the network.
    """
    networks = tuned.ensemble.runs
    network = networks[0].network
    abstract = nnx.eval_shape(lambda: models.create(**network))  # a refusal needs no weights
    nnunet = built_by_nnunet(str(tuned.path), network, abstract, "nnunet-results")
    assert nnunet is not None
    dataset = dataset_name(tuned)
    folder = Path(dataset) / f"{nnunet.trainer}__{_PLANS}__3d_fullres"
    plans = plans_of(tuned.plan, nnunet.architecture, dataset=dataset, name=_PLANS)
    described = {
        "channel_names": {str(i): name for i, name in enumerate(tuned.conventions.channel_names)},
        "labels": tuned.labels,
        **painted_in(tuned),
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }

    def write(part: Path) -> None:
        (part / folder).mkdir(parents=True)
        write_json(part / folder / "plans.json", plans)
        write_json(part / folder / "dataset.json", described)
        for number in range(len(networks)):
            state = nnunet_checkpoint(to_torch_state_dict(tuned.model(number)))
            file = part / folder / f"fold_{number}" / "checkpoint_final.pth"
            file.parent.mkdir()
            save_torch(state | _said(tuned, nnunet, plans, described, number), file)

    write_folder(out, write)
    overlap = tuned.ensemble.overlap
    print(f"{out / folder}: {len(networks)} network{'s' * (len(networks) > 1)}")
    print(
        _USAGE.format(
            out=out,
            dataset=dataset,
            trainer=nnunet.trainer,
            plans=_PLANS,
            folds=" ".join(map(str, range(len(networks)))),
            step="" if overlap == 0.5 else f" -step_size {1 - overlap:g}",
        )
    )


def _said(tuned: FineTuned, nnunet: NnunetNetwork, plans: Any, described: Any, fold: int) -> dict[str, Any]:
    """What nnU-Net's checkpoint says beside the weights."""
    return {
        "trainer_name": nnunet.trainer,
        "inference_allowed_mirroring_axes": tuned.ensemble.mirror_axes or None,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": fold,
            "dataset_json": described,
        },
    }


def dataset_name(tuned: FineTuned) -> str:
    """What nnU-Net calls the dataset: ``DatasetNNN_NAME``, by the name of its folder."""
    run: Any = tuned.ensemble.runs[0]
    used = run.document.dataset
    path = Path(used.list if used else "")
    name = path.parent.name if path.suffix == ".json" else path.name
    told = re.fullmatch(r"(?:Dataset|Task)(\d{1,3})_(.+)", name)
    number, name = (int(told[1]), told[2]) if told else (999, name)
    return f"Dataset{number:03d}_{re.sub(r'[^0-9A-Za-z_-]', '_', name) or 'fdif'}"
