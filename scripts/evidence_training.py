"""Does augmentation by neighbours help? The comparisons of docs/measured.md, and why they come out as they do.

    python scripts/evidence_training.py tables compare_fashion_small compare_fashion …   # recipes; resumes
    python scripts/evidence_training.py ablation                                         # one lever at a time
    python scripts/evidence_training.py why                                              # label noise, detail, novelty

Needs runs/fashion_mnist and runs/cifar10 (see scripts/fashion_mnist_shards.py and cifar10_shards.py). Results:
scripts/evidence/training_RECIPE.json, training_why.json; scripts/evidence_tables.py makes tables of them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import load_config
from pipeline.report.progress import comparing
from training.classifier.judge import SmallCNN, evaluate, train_classifier
from training.compare.compare import compare
from training.compare.config import CompareConfig, NearConfig
from training.compare.pools import made
from training.compare.report import write_report
from training.data.images import Images, load_images
from training.data.subsets import draw_subset
from training.metrics import FeatureSpace, describe

RESULTS = Path(__file__).parent / "evidence"
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
LABELLED, COPIES, EPOCHS = 500, 2, 3
KEPT = (
    "arm",
    "size",
    "images",
    "seed",
    "accuracy",
    "validation",
    "ece",
    "seconds",
    "steps",
    "rejected",
    "making_seconds",
    "classical",
    "failed",
)


def tables(recipes: list[str]) -> None:
    for recipe in recipes:
        config = load_config(CompareConfig, recipe)
        with comparing() as observe:
            results = compare(config, observe=observe)
        write_report(results, Path(config.output))
        runs = [{key: run.get(key) for key in KEPT} for run in results["runs"]]
        save(f"training_{Path(recipe).stem.removeprefix('compare_')}", {**results, "runs": runs})


def ablation() -> None:
    """Every lever on validation images; the results that are committed were stopped early."""
    found = {}
    for recipe in ("compare_ablation_flip", "compare_ablation_randaugment"):
        with comparing() as observe:
            runs = compare(load_config(CompareConfig, recipe), observe=observe)["runs"]
        found[recipe] = [{key: run.get(key) for key in KEPT} for run in runs]
    save("training_ablation", {"split": "validation", "ablations": found})


def why() -> None:
    """By a judge trained on all labels of the training split, which no arm of a comparison has."""
    config = load_config(CompareConfig, "compare_fashion")
    near = next(near for near in config.neighbours.values() if near.operator is not None)
    folder = Path("runs/why")
    sources = (("train", config.data.train), ("validation", config.data.validation), ("test", config.data.test))
    train, held_out, test = (
        load_images(source, folder / name, config.size, config.rules, name=name) for name, source in sources if source
    )
    judge = train_classifier(train.pixels, train.labels, epochs=EPOCHS)
    subset = train.take(draw_subset(train.labels, LABELLED, config.classes, 0))
    found: dict[str, Any] = {
        "judge": {"images": len(train), "epochs": EPOCHS, "test_accuracy": share(judge, test.pixels, test.labels)},
        "labelled": LABELLED,
        "copies": COPIES,
        "originals_read": share(judge, subset.pixels, subset.labels),
        "levels": {},
    }
    for level in LEVELS:
        found["levels"][f"{level:g}"] = at_level(near, level, subset, train, held_out, test, judge, folder)
        save("training_why", found)


def at_level(
    near: NearConfig,
    level: float,
    subset: Images,
    train: Images,
    held_out: Images,
    test: Images,
    judge: SmallCNN,
    folder: Path,
) -> dict[str, Any]:
    operator = {**near.operator.model_dump(mode="json"), "t_boom": level} if near.operator else None
    there = NearConfig.model_validate({"model": near.model, "operator": operator, "copies": COPIES})
    pixels = made(there, subset, "cpu", folder / "pools")[0].flatten(0, 1)
    labels = subset.labels.repeat(COPIES)
    space = FeatureSpace(name="small CNN trained on all labels of the training split", network=judge)
    own, others, tested = space(subset.pixels), space(pixels), space(test.pixels)
    reach = nearest(tested, own)
    print(f"t_boom {level:g}", flush=True)
    return {
        "label_kept": share(judge, pixels, labels),
        "detail_kept": detail(pixels) / detail(subset.pixels),
        "novelty": float((others - own.repeat(COPIES, 1)).norm(dim=1).mean() / nearest(own, own, skip=1).mean()),
        "nearer_to_test": 1 - float(torch.minimum(reach, nearest(tested, others)).mean() / reach.mean()),
        "distribution": describe(
            space(held_out.pixels), others, space(train.pixels), space.name, generator=torch.Generator().manual_seed(0)
        ),
    }


def share(judge: SmallCNN, pixels: Tensor, labels: Tensor) -> float:
    """Of images that the judge reads as labelled."""
    return float((evaluate(judge, pixels).argmax(1) == labels).double().mean())


def detail(pixels: Tensor) -> float:
    """Root mean square of what a 3 × 3 mean takes away."""
    x = pixels.float()
    return float((x - torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).square().mean().sqrt())


def nearest(features: Tensor, others: Tensor, skip: int = 0) -> Tensor:
    """Distance to the nearest of `others`; `skip` leaves out the image itself."""
    return torch.cat(
        [torch.cdist(part, others).topk(skip + 1, largest=False).values[:, -1] for part in features.split(500)]
    )


def save(name: str, found: dict[str, Any]) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tables", "ablation", "why"))
    parser.add_argument("recipes", nargs="*")
    args = parser.parse_args()
    if args.part == "tables":
        tables(args.recipes)
    elif args.part == "ablation":
        ablation()
    else:
        why()


if __name__ == "__main__":
    main()
