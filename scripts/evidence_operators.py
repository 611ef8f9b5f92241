"""What the operators do on real images, measured by classifiers that never saw them; figures, curves, sheets.

    python scripts/colour_mnist_shards.py ../shared/data/mnist t10k runs/colour_mnist --shards 2 --images 2000
    python scripts/train_judges.py runs/judges            # see there for the training shards it reads
    python scripts/evidence_operators.py                  # all; or --only ddib anagrams …

The judges are small CNNs (`training.classifier.judge`), trained on the training splits. Digits: colour-MNIST test
images and the embedded colour-MNIST denoiser; garments: the embedded Fashion-MNIST sample (test images) and denoiser.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.tiles.assembling import share as share_tiles
from pipeline.diffusion.tiles.matching import Tiling
from pipeline.diffusion.tiles.regions import Cut
from pipeline.media.masks import mask_shape
from pipeline.media.pixels import decode, from_pixels, to_pixels
from pipeline.media.records import Sample
from pipeline.media.rules import PixelRules
from pipeline.media.strokes import stroke_painting
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.models.pixel import PixelModel
from pipeline.operators import OPERATORS, Given
from pipeline.report.sheet import contact_sheet
from pipeline.streams.shards import WebDatasetInput
from training.classifier.judge import SmallCNN, load_classifier

mpl.use("agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parent / "evidence"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Photographs and paintings, for `mosaics` alone."""
BATCH = 200


class Bench:
    """A model, real test images for it, and a judge."""

    def __init__(self, model: str, urls: str, judge: str) -> None:
        self.model: PixelModel = load_model(ModelConfig(path=model), "cpu")
        shards = WebDatasetInput(urls=(urls,), label="cls").open().shards
        samples = [s for shard in shards for s in shard.read() if isinstance(s, Sample)]
        self.images = to_pixels([decode(s.image)[0] for s in samples], "cpu")
        self.labels = torch.tensor([s.label for s in samples])
        self.judge: SmallCNN = load_classifier(Path(judge))

    @torch.inference_mode()
    def run(self, name: str, rows: Sequence[int] | Tensor, tag: str = "", **options: Any) -> dict[str, Tensor]:
        """The operator on test images `rows`: float `[N, 3, H, W]` in [-1, 1], by name ("" is the output itself).

        `mask` and `guides` among the options are tensors for the rows; the rest configures the operator.
        """
        mask, guides = options.pop("mask", None), options.pop("guides", [])
        operator = OPERATORS[name].model_validate({"name": name, **options})
        operator.check(self.model, None)
        rows, parts = torch.as_tensor(rows), list[dict[str, Tensor]]()
        for some in torch.arange(len(rows)).split(BATCH):
            given = Given(
                labels=self.labels[rows[some]],
                mask=None if mask is None else mask[some],
                guide=guides[0][some] if guides else None,
                more_guides=[guide[some] for guide in guides[1:]],
            )
            keys = [f"{tag}-{i}-{int(rows[i])}" for i in some.tolist()]
            noise = KeyedNoise(b"evidence: a public salt", keys, name, 0)
            done = operator(self.model, self.model.encode(self.images[rows[some]]), given, noise)
            parts.append({k: made.clamp(-1, 1) for k, made in {"": done.pixels, **done.others}.items()})
        return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}

    @torch.inference_mode()
    def read(self, images: Tensor) -> Tensor:
        """What the judge reads, `[N]`."""
        return self.judge(images).argmax(1)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        return self.judge.features(images)


def digits() -> Bench:
    return Bench("embedded:colour_mnist/model", "runs/colour_mnist/t10k-*.tar", "runs/judges/digit.safetensors")


def garments() -> Bench:
    urls = "embedded:fashion_mnist/sample/t10k-*.tar.gz"
    return Bench("embedded:fashion_mnist/model", urls, "runs/judges/garment.safetensors")


def share(hits: Tensor) -> float:
    return round(hits.float().mean().item(), 4)


def colour_of(images: Tensor) -> Tensor:
    """The mean RGB in [0, 1] of the strokes, `[N, 3]`: each pixel counts as much as it is bright."""
    rgb = (images + 1) / 2
    weight = rgb.amax(1, keepdim=True)
    return (rgb * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6)


def sheet(file: str, rows: Sequence[tuple[str, Tensor]]) -> None:
    contact_sheet([(name, list(from_pixels(images))) for name, images in rows], cell=56).save(OUT / file)


def ddib() -> dict[str, Any]:
    """Every digit into every other; test images from the 600th on: settings were chosen by looking at earlier ones."""
    bench = digits()
    rows = torch.arange(600, len(bench.labels))
    by_digit = [rows[bench.labels[rows] == d] for d in range(10)]
    variants = {
        "as in the recipe": bridges(bench, by_digit, 20, DDIB, "ddib.png"),
        "bare": bridges(bench, by_digit, 5, {}),
    }
    real = share(bench.read(bench.images[600:]) == bench.labels[600:])
    return {"settings": DDIB, **variants, "real_images_read": real, "round_trip": round_trips(bench)}


def bridges(
    bench: Bench, by_digit: list[Tensor], per_pair: int, settings: dict[str, Any], file: str | None = None
) -> dict[str, Any]:
    pairs, colours, shown = dict[str, float](), list[Tensor](), list[tuple[str, Tensor]]()
    for target in range(10):
        sources = [d for d in range(10) if d != target]
        rows = torch.cat([by_digit[d][:per_pair] for d in sources])
        made = bench.run("ddib", rows, target=target, **settings)[""]
        hits = bench.read(made) == target
        pairs |= {f"{d}→{target}": share(hits[i * per_pair : (i + 1) * per_pair]) for i, d in enumerate(sources)}
        colours.append((colour_of(made) - colour_of(bench.images[rows])).abs().mean(1))
        shown += [("from", bench.images[rows[::per_pair]]), (f"to {target}", made[::per_pair])]
    if file:
        sheet(file, shown)
    worst = sorted(pairs, key=pairs.__getitem__)[:5]
    return {
        "images": 90 * per_pair,
        "target_read": share(torch.tensor(list(pairs.values()))),
        "pairs_at_90": sum(hit >= 0.9 for hit in pairs.values()),
        "worst_pairs": {pair: pairs[pair] for pair in worst},
        "colour_difference": share(torch.cat(colours)),
    }


def round_trips(bench: Bench) -> dict[str, Any]:
    """Up and down with the same label; and the same trip, and the bridge, where the answer is known."""
    levels = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2"})
    a, b = Gaussian(mean=0.3, std=0.5), Gaussian(mean=-0.2, std=0.3)
    exact = ClosedForm(denoise=a, by_class=(a, b), levels=levels, size=(8, 8))
    x = 0.3 + 0.5 * torch.randn(20, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {}
    for steps in (10, 20, 40, 80):
        options = {"steps": steps}
        noise = KeyedNoise(b"evidence", [str(i) for i in range(20)], "ddib", 0)
        trip, bridge = (
            OPERATORS["ddib"]
            .model_validate({"name": "ddib", "source": 0, "target": target, **options})(exact, x, Given(), noise)
            .pixels
            for target in (0, 1)
        )
        real = bench.run("ddib", range(20), target="own", **options)[""]
        found[str(steps)] = {
            "digits_rms": rms(real - bench.images[:20]),
            "gaussian_rms": rms(trip - x),
            "gaussian_bridge_rms": rms(bridge - (-0.2 + 0.3 / 0.5 * (x - 0.3))),
        }
    return found


def rms(difference: Tensor) -> float:
    return float(f"{difference.square().mean().sqrt().item():.3g}")


def class_pairs(count: int, seed: int = 0) -> list[tuple[int, int]]:
    return random.Random(seed).sample(list(itertools.combinations(range(10), 2)), count)


def both_read(bench: Bench, made: dict[str, Tensor], second: str, pair: tuple[int, int]) -> Tensor:
    return (bench.read(made[""]) == pair[0]) & (bench.read(made[second]) == pair[1])


def anagrams() -> dict[str, Any]:
    """20 pairs of digits for each view, 6 images a pair."""
    bench, rows, pairs = digits(), range(6), class_pairs(20)
    alone = {
        d: bench.run("compose", range(24), tag="alone", terms=[{"condition": d, "weight": 3}])[""] for d in range(10)
    }
    read = {d: share(bench.read(images) == d) for d, images in alone.items()}
    found: dict[str, Any] = {
        "independent": round(sum(read[a] * read[b] for a, b in pairs) / len(pairs), 4),
        "one_sample": round(sum(read.values()) / 10, 4),
    }
    for view in ("flip_vertical", "rotate_90", "jigsaw", "inner_circle", "patch_permutation"):
        for reduce in ("mean", "alternate"):
            made = [
                bench.run(
                    "anagram", rows, tag=view, views=["identity", view], conditions=pair, reduce=reduce, **ANAGRAM
                )
                for pair in pairs
            ]
            hits = [both_read(bench, m, "view-1", pair) for m, pair in zip(made, pairs, strict=True)]
            found[f"{view}, {reduce}"] = share(torch.cat(hits))
            if reduce == "mean":
                first = torch.stack([m[""][int(h.float().argmax())] for m, h in zip(made, hits, strict=True)])
                second = torch.stack([m["view-1"][int(h.float().argmax())] for m, h in zip(made, hits, strict=True)])
                names = [f"{a}/{b}" for a, b in pairs]
                sheet(f"anagram_{view}.png", [(" ".join(names[:3]) + " …", first), (view, second)])
    return found


def tile_morphs() -> dict[str, Any]:
    """Two digits from one set of tiles: 10 pairs, 6 images each. One test digit's tiles laid as another: 60 images."""
    bench, rows, pairs = digits(), range(6), class_pairs(10)
    found: dict[str, Any] = {}
    shown = []
    cuts: dict[str, Any] = {f"{n}×{n} tiles": {"count": n} for n in (2, 4, 7, 14)} | {"single pixels": "pixels"}
    turned = {
        f"{name}, flips and turns": cut | {"flips": True, "turns": True}
        for name, cut in cuts.items()
        if name[0] in "247"
    }
    for name, cut in (cuts | turned).items():
        made = [bench.run("tile_morph", rows, tag=name, conditions=pair, tiles=cut, **MORPH) for pair in pairs]
        hits = [both_read(bench, m, "image-2", pair) for m, pair in zip(made, pairs, strict=True)]
        found[f"two images, {name}"] = share(torch.cat(hits))
        shown += [(name, torch.stack([m[""][0] for m in made])), ("", torch.stack([m["image-2"][0] for m in made]))]
    sheet("tile_morph.png", shown)
    sources = torch.cat([torch.nonzero(bench.labels == d).flatten()[:6] for d in range(10)])
    others = [bench.images[sources.roll(6 * k)] for k in (3, 6)]  # digits of other classes
    wanted = (bench.labels[sources] + 1) % 10
    for name, cut in cuts.items():
        for case, guides, repeats in (
            ("one source", [], 1),
            ("one source, unlimited copies", [], "unlimited"),
            ("three sources", others, 1),
        ):
            hits = []
            for d in range(10):
                some = torch.nonzero(wanted == d).flatten()
                options = {"guides": [guide[some] for guide in guides], "repeats": repeats, **MORPH}
                made = bench.run(
                    "tile_morph", sources[some], tag=name, conditions=[d], tiles=cut, source="image", **options
                )
                hits.append(bench.read(made[""]) == d)
            found[f"from a test digit, {name}, {case}"] = share(torch.cat(hits))
    return found


def mosaics() -> dict[str, Any]:
    """Paintings laid to look like photographs and other paintings, at 256 × 256; no diffusion. PSNR to the target."""
    files = [f for folder in ("paintings_pd", "hires_cc0") for f in sorted((SHARED / folder).iterdir())]
    rules, kinds = PixelRules(fit="crop"), (".jpg", ".png", ".webp")
    images = [decode(f.read_bytes(), (256, 256), rules)[0] for f in files if f.suffix in kinds]
    pictures = to_pixels(images, "cpu")
    model = ClosedForm(denoise=Gaussian(), levels=levels_from_scheduler({}), size=(256, 256))
    sources, targets = pictures[[0, 2, 4, 6]], pictures[[9, 11, 13, 1]]
    given = {
        "one source": Given(guide=targets),
        "one source, unlimited copies": Given(guide=targets),
        "three sources": Given(guide=targets),
    }
    found: dict[str, Any] = {}
    shown = [("tiles of", sources), ("target", targets)]
    for count in (8, 16, 32, 64):
        for case in given:
            options = {"repeats": "unlimited"} if "unlimited" in case else {}
            cut = {"count": count}
            if case == "three sources":
                matcher = Tiling(tiles=Cut.model_validate(cut)).matcher(model)
                pool = [sources, sources.roll(1, 0), sources.roll(2, 0)]
                made = share_tiles(matcher, targets[:, None], targets[:, None], pool, generated=False)[0][:, 0]
            else:
                mosaic = OPERATORS["mosaic"].model_validate({"name": "mosaic", "tiles": cut, **options})
                made = mosaic(model, sources, given[case], KeyedNoise(b"evidence", list("abcd"), "mosaic", 0)).pixels
            found[f"{count}×{count}, {case}"] = psnr(made, targets)
            if case == "one source":
                shown.append((f"{count}×{count}", made))
    contact_sheet([(name, list(from_pixels(row))) for name, row in shown], cell=160).save(OUT / "mosaic.png")
    return found


def masked(images: Tensor, kept: Tensor) -> Tensor:
    """Mean squared difference, on [0, 1], where the mask changes; `[N]`."""
    return ((images / 2) ** 2 * kept).sum((1, 2, 3)) / (3 * kept.sum((1, 2, 3)))


def inpaint() -> dict[str, Any]:
    """60 garments under five masks."""
    bench, rows = garments(), range(60)
    truth, found, shown = bench.images[:60], dict[str, Any](), list[tuple[str, Tensor]]()
    methods = {
        "RePaint": {"resamples": 5, "jump_length": 5},
        "plain replacement": {"resamples": 1},
        "shared-noise constraint": {"resamples": 1, "known_noise": "shared"},
    }
    for shape in ("half", "wide", "narrow", "lines", "expand"):
        grown = np.stack([mask_shape(shape, bench.model.size, np.random.default_rng(i)) for i in rows])
        mask = torch.from_numpy(grown).float()[:, None]
        shown.append((shape, torch.where(mask > 0, torch.zeros(()), truth)[:10]))
        for method, options in methods.items():
            made = bench.run("inpaint", rows, tag=shape, mask=mask, steps=25, condition="none", **options)[""]
            found[f"{shape}, {method}"] = {
                "masked_mse": round(masked(made - truth, mask).mean().item(), 4),
                "agreement": share(bench.read(made) == bench.labels[:60]),
            }
            shown.append((method, made[:10]))
        grey = torch.where(mask > 0, torch.zeros(()), truth)
        found[f"{shape}, filled with grey"] = {
            "masked_mse": round(masked(grey - truth, mask).mean().item(), 4),
            "agreement": share(bench.read(grey) == bench.labels[:60]),
        }
    sheet("inpaint.png", shown)
    return found


def psnr(made: Tensor, truth: Tensor) -> float:
    return round((10 * torch.log10(4 / (made - truth).square().flatten(1).mean(1))).mean().item(), 2)


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features `[N, F]` (as FID, in the judge's features)."""
    a, b = a.double(), b.double()
    root = scipy.linalg.sqrtm(torch.cov(a.T).numpy() @ torch.cov(b.T).numpy()).real
    spread = torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * np.trace(root)
    return round(((a.mean(0) - b.mean(0)).square().sum() + spread).item(), 2)


def enhance() -> dict[str, Any]:
    """4× on 400 garments."""
    bench, count = garments(), 400
    truth = bench.images[:count]
    small = avg_pool2d(truth, 4)
    wanted = bench.features(truth)

    def judged(made: Tensor) -> dict[str, float]:
        return {
            "psnr": psnr(made, truth),
            "frechet": frechet(bench.features(made), wanted),
            "agreement": share(bench.read(made) == bench.labels[:count]),
        }

    modes = {mode: interpolate(small, size=(28, 28), mode=mode).clamp(-1, 1) for mode in ("bilinear", "bicubic")}
    found = {mode: judged(made) for mode, made in modes.items()}
    shown = [("truth", truth[:10]), *((mode, made[:10]) for mode, made in modes.items())]
    for level, consistent in itertools.product((0.2, 0.4, 0.6, 0.8), (True, False)):
        options = {"t_boom": level, "consistent": consistent, "condition": "none", "steps": 15}
        made = bench.run("enhance", range(count), **options)[""]
        name = f"t_boom {level}, {'consistent' if consistent else 'free'}"
        found[name] = judged(made)
        shown.append((name, made[:10]))
    sheet("enhance.png", shown)
    return found


def locality() -> dict[str, Any]:
    """Boomerang and SDEdit from strokes, 200 garments, levels .1 to .9."""
    bench, count, levels = garments(), 200, [round(0.1 * i, 1) for i in range(1, 10)]
    truth = bench.images[:count]
    painted = to_pixels([stroke_painting(image) for image in from_pixels(truth)], "cpu")
    wanted = bench.features(truth)
    cases: dict[str, Callable[[float], Tensor]] = {
        "boomerang": lambda t: bench.run("boomerang", range(count), t_boom=t)[""],
        "boomerang, no label": lambda t: bench.run("boomerang", range(count), t_boom=t, condition="none")[""],
        "sdedit from strokes": lambda t: bench.run("sdedit", range(count), t0=t, guides=[painted])[""],
    }
    found: dict[str, Any] = {"real images read": share(bench.read(truth) == bench.labels[:count])}
    curves: dict[str, Any] = {name: [] for name in cases}
    for name, apply in cases.items():
        for level in levels:
            made = apply(level)
            curves[name].append(
                {
                    "pixels_rms": rms(made - truth),
                    "features": round((bench.features(made) - wanted).norm(dim=1).mean().item(), 3),
                    "agreement": share(bench.read(made) == bench.labels[:count]),
                }
            )
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), constrained_layout=True)
    titles = {
        "pixels_rms": "distance in pixels (rms, [-1, 1])",
        "features": "distance in features",
        "agreement": "label agreement",
    }
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for name, points in curves.items():
            axis.plot(levels, [point[key] for point in points], marker="o", markersize=3, label=name)
        axis.set(title=title, xlabel="level (t/T)")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(OUT / "locality.png", dpi=110)
    return found | {"levels": levels, **curves}


DDIB: dict[str, Any] = {
    "guidance": {"scale": 3, "rescale": 0.7}, "lift": 0.1, "latent": [{"name": "blend", "share": 0.2}],
}  # fmt: skip
ANAGRAM: dict[str, Any] = {"steps": 25}
MORPH: dict[str, Any] = {"steps": 25}
SECTIONS = {
    "ddib": ddib, "anagrams": anagrams, "tile_morphs": tile_morphs, "mosaics": mosaics, "inpaint": inpaint,
    "enhance": enhance, "locality": locality,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    file = OUT / "operators.json"
    for name in args.only:
        started = time.monotonic()
        found = SECTIONS[name]()
        found["seconds"] = round(time.monotonic() - started)
        results = json.loads(file.read_text()) if file.exists() else {}  # another process may have added to it
        file.write_text(json.dumps(results | {name: found}, indent=1, ensure_ascii=False) + "\n")
        print(name, json.dumps(found, indent=1, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
