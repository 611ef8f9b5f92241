"""Writes the tables of README.md and docs/ from scripts/evidence/*.json, between their `evidence` markers.

python scripts/evidence_tables.py
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import face_tables
import gpu_tables
import scale_tables
from cells import percent, table

from training.compare.report import markdown, verdict

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "evidence"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
CERTIFICATES = ROOT / "pipeline" / "assets" / "certificates"
VIEWS = ("flip_vertical", "rotate_90", "jigsaw", "inner_circle", "patch_permutation")
CUTS = ("2×2 tiles", "4×4 tiles", "7×7 tiles", "14×14 tiles", "single pixels")
CASES = ("one source", "one source, unlimited copies", "three sources")


def ddib(found: dict[str, Any]) -> str:
    both = [found[name] for name in ("as in the recipe", "bare")]
    worst = [", ".join(f"{p} {percent(v)}" for p, v in f["worst_pairs"].items()) for f in both]
    facts = table(
        ["DDIB, all 90 pairs of digits", "as in the recipe `ddib`", "bare", "wanted"],
        [
            ["test images", *(f["images"] for f in both), ""],
            [
                "… in which the judge reads the target digit",
                *(f"{100 * f['target_read']:.1f} %" for f in both),
                "≥ 90 %",
            ],
            ["pairs at 90 % or more", *(f"{f['pairs_at_90']} of 90" for f in both), ""],
            ["worst pairs", *worst, ""],
            ["mean colour difference, RGB in [0, 1]", *(f"{f['colour_difference']:.3f}" for f in both), "≤ .10"],
            ["real test images whose digit the judge reads", f"{100 * found['real_images_read']:.1f} %", "", ""],
        ],
    )
    trips = table(
        ["steps up and down", "digits, round trip", "Gaussian, round trip", "Gaussian, error of the bridge"],
        [[n, r["digits_rms"], r["gaussian_rms"], r["gaussian_bridge_rms"]] for n, r in found["round_trip"].items()],
    )
    return f"{facts}\n\nRoot mean square errors, images in [-1, 1]:\n\n{trips}"


def anagrams(found: dict[str, Any]) -> str:
    rows = [[v.replace("_", " "), percent(found[f"{v}, mean"]), percent(found[f"{v}, alternate"])] for v in VIEWS]
    rows.append(["two independent samples", percent(found["independent"]), ""])
    return table(["both readings right, 20 pairs of digits", "mean of the views", "alternating"], rows)


def tile_morphs(found: dict[str, Any]) -> str:
    head = ["images whose label the judge reads", *CUTS]
    rows = [
        ["two digits from one set of tiles", *(percent(found[f"two images, {cut}"]) for cut in CUTS)],
        ["… with flips and turns", *(percent(found.get(f"two images, {cut}, flips and turns")) for cut in CUTS)],
        *(
            [
                f"a test digit laid as another, {case}",
                *(percent(found[f"from a test digit, {cut}, {case}"]) for cut in CUTS),
            ]
            for case in CASES
        ),
    ]
    return table(head, rows)


def mosaics(found: dict[str, Any]) -> str:
    counts = ("8×8", "16×16", "32×32", "64×64")
    rows = [[case, *(f"{found[f'{count}, {case}']:.1f} dB" for count in counts)] for case in CASES]
    return table(["paintings laid as pictures, PSNR", *counts], rows)


def inpaint(found: dict[str, Any]) -> str:
    methods = ("RePaint", "plain replacement", "shared-noise constraint", "filled with grey")
    rows = []
    for shape in ("half", "wide", "narrow", "lines", "expand"):
        cells = [found[f"{shape}, {method}"] for method in methods]
        rows.append([shape, *(f"{c['masked_mse']:.3f} · {percent(c['agreement'])}" for c in cells)])
    return table(["mask (masked MSE · label read)", *methods], rows)


def enhance(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{c['psnr']:.1f} dB", f"{c['frechet']:.1f}", percent(c["agreement"])]
        for name, c in found.items()
        if isinstance(c, dict)
    ]
    return table(["enlarged 4×, 400 garments", "PSNR", "Fréchet distance, judge's features", "label read"], rows)


FAMILIES = {
    "sd": ("Stable Diffusion 1.x, 2.x", "`StableDiffusionPipeline`", "prompt"),
    "sdxl": ("SDXL, its refiner", "`StableDiffusionXLPipeline`, `…Img2ImgPipeline`", "prompt"),
    "turbo": ("SD and SDXL Turbo", "the same; `spacing: model`, 1 to 4 steps", "prompt"),
    "lcm": ("LCM, LCM-LoRA", "`LatentConsistencyModelPipeline`; `solver: consistency`", "prompt"),
    "sd3": ("Stable Diffusion 3, 3.5", "`StableDiffusion3Pipeline`", "prompt"),
    "flux": ("Flux dev, schnell", "`FluxPipeline`", "prompt"),
    "dit": ("DiT", "`DiTPipeline`", "class"),
    "pixart": ("PixArt α, Σ", "`PixArtAlphaPipeline`, `PixArtSigmaPipeline`", "prompt"),
    "deepfloyd": ("DeepFloyd IF, any ×4 upscaler", "`IFPipeline`; the others under `upscalers`", "prompt"),
    "animatediff": ("AnimateDiff (clips)", "`AnimateDiffPipeline`", "prompt"),
}


def models(found: dict[str, Any]) -> str:
    rows = []
    for name, (family, classes, conditions) in FAMILIES.items():
        refused = [f"`{operator}`" for operator, said in found["operators"][name].items() if said != "yes"]
        speed = found["speed"].get(name)
        rows.append([
            family, classes, conditions, f"all but {', '.join(refused)}" if refused else "all",
            f"{max(found['parity'][name].values()):.1e}", f"{speed['ratio']:.2f}" if speed else "–",
        ])  # fmt: skip
    return table(["model", "folder's class", "condition", "operators", "parity", "speed"], rows)


def comparison(found: dict[str, Any]) -> str:
    return markdown(found).rstrip()


def training_why(found: dict[str, Any]) -> str:
    levels = found["levels"]
    rows = [
        [
            "neighbours in which the judge reads the label of the source",
            *(percent(r["label_kept"]) for r in levels.values()),
        ],
        ["fine detail that is left, of the source's", *(percent(r["detail_kept"]) for r in levels.values())],
        ["distance to the source / to the nearest other image", *(f"{r['novelty']:.2f}" for r in levels.values())],
        [
            "test images come nearer to the labelled set by",
            *(f"{100 * r['nearer_to_test']:.1f} %" for r in levels.values()),
        ],
        ["FID to held-out images", *(f"{r['distribution']['fid']:.1f}" for r in levels.values())],
        ["precision", *(f"{r['distribution']['prdc']['precision']:.2f}" for r in levels.values())],
        ["coverage", *(f"{r['distribution']['prdc']['coverage']:.2f}" for r in levels.values())],
    ]
    return table(["t_boom", *levels], rows)


LEVERS = {
    "s_t35": "label of the source, t_boom .2–.5, p .5",
    "s_t35_p25": "… p .25",
    "s_t35_until7": "… originals only at the end",
    "s_t35_sepbn": "… batch norm apart",
    "s_t35_gamma": "… soft labels, γ 2",
    "s_t35_filter": "… filter, margin .2",
    "s_t35_gamma_u7": "… soft labels, originals only at the end",
    "s_t6": "… t_boom .6",
    "s_blend": "… blends of two images",
    "b_t0": "baseline's labels, t_boom .01",
    "b_t35": "… t_boom .2–.5",
    "b_t6": "… t_boom .6",
    "b_t9": "… t_boom .9",
    "b_t9_p75": "… t_boom .9, p .75",
    "b_blend": "… blends of two images",
    "r_source": "retrieved, label of the source",
    "r_base": "retrieved, baseline's labels",
}


def training_ablation(found: dict[str, Any]) -> str:
    """Mean difference, and the seeds that it is over."""
    beside = {"flip_crop": "compare_ablation_flip", "randaugment": "compare_ablation_randaugment"}
    cells: dict[str, list[str]] = {arm: [] for arm in LEVERS}
    for classical, recipe in beside.items():
        scores: dict[str, dict[int, float]] = {}
        for run in found["ablations"][recipe]:
            scores.setdefault(run["arm"], {})[run["seed"]] = 100 * run["accuracy"]
        for arm, row in cells.items():
            gains = [score - scores[classical][seed] for seed, score in scores.get(arm, {}).items()]
            row.append(f"{sum(gains) / len(gains):+.1f} ({len(gains)})" if gains else "")
    return table(
        ["neighbours of 500 images, validation", *(f"over {name} (seeds)" for name in beside)],
        [[LEVERS[arm], *row] for arm, row in cells.items()],
    )


def overview(found: dict[str, Any]) -> str:
    """The README's few rows: what was asked, what was found, a gain as plainly as a loss."""
    arms = found["training_fashion_500"]["summary"]["500"]
    alone, added = (
        arms[arm]["against"][to] for arm, to in (("boomerang", "real"), ("boomerang_best", "best_classical"))
    )
    release = found["anonymity_release"]
    threats = {t: release["audit"][t]["recognisers"] for t in ("T1", "T2")}
    outside = [threats["T1"][name] for name in ("lbph", "mobileface", "small")]
    searched = max(
        figures["reidentification"][kind]["rank"]["1"]["share"] for figures in outside for kind in face_tables.SEARCHES
    )
    trained = max(figures["trained"][kind]["rank"]["1"]["share"] for figures in outside for kind in face_tables.LEARNT)
    thumbnail = max(
        threats["T2"]["pixels"]["reidentification"][kind]["rank"]["1"]["share"] for kind in face_tables.SEARCHES[:2]
    )
    chance = {t: threats[t]["pixels"]["reidentification"]["naive"]["rank"]["1"]["chance"] for t in threats}
    counts, digits = release["counts"], found["ddib"]["as in the recipe"]
    level = ", ".join(counts["released_by_level"])
    parity = max(value for family in found["models"]["parity"].values() for value in family.values())
    rows = [
        ["Boomerang on top of the best classical augmentation, 500 labels", points(added),
         link("500-labels-fashion-mnist")],
        ["Boomerang instead of no augmentation, 500 labels", points(alone),
         link("500-labels-fashion-mnist")],
        [f"Photographs of people that passed the gate at `t_boom` {level}",
         f"{counts['released']:,} of {counts['read']:,}",
         link("the-release-attacked")],
        ["Searches that find the right person in that release by *another* photograph; "
         "recognisers that the gate does not use",
         f"at most {100 * searched:.1f} % (chance {100 * chance['T1']:.1f} %); "
         f"{100 * trained:.1f} % by attackers who train on it",
         link("the-release-attacked")],
        ["Images of that release linked to *their own* photograph by a thumbnail",
         f"{100 * thumbnail:.1f} % (chance {100 * chance['T2']:.2f} %): **not solved**", link("the-release-attacked")],
        ["Digits that DDIB turned into another digit, read as such",
         f"{100 * digits['target_read']:.1f} % of {digits['images']:,}",
         link("ddib-a-digit-becomes-another")],
        [f"Largest difference of a pixel to diffusers' own pipelines, {len(FAMILIES)} families, values from −1 to 1",
         f"{parity:.0e}",
         "[models](docs/models.md)"],
        ["Speed of the gate, over that of `DeepFace.verify` called pair by pair",
         f"{found['faces_speed']['gate']['times as fast']:.1f} times", link("speed")],
    ]  # fmt: skip
    return table(["asked", "found", "all of it"], rows)


def points(difference: dict[str, Any]) -> str:
    mean, low, high = (f"{100 * difference[key]:+.1f}".replace("-", "−") for key in ("mean", "low", "high"))
    said = verdict(difference["mean"], difference["p_holm"])
    return f"**{said}**: {mean} points of accuracy, 95 % interval {low} to {high}"


def link(anchor: str) -> str:
    return f"[table](docs/measured.md#{anchor})"


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "ddib": ddib, "anagrams": anagrams, "tile_morphs": tile_morphs, "mosaics": mosaics, "inpaint": inpaint,
    "enhance": enhance, "models": models, "face_model": face_tables.face_model,
    "certificates": face_tables.certificates, "recognisers": face_tables.attackers,
    "face_utility": face_tables.face_utility, "anonymity_levels": face_tables.anonymity_levels,
    "anonymity_ladder": face_tables.anonymity_ladder, "anonymity_caught": face_tables.anonymity_caught,
    "guidance": face_tables.guidance, "anonymity_release": face_tables.anonymity_release,
    "anonymity_leave_one_out": face_tables.anonymity_leave_one_out,
    "anonymity_bound": face_tables.anonymity_bound, "anonymity_attackers": face_tables.anonymity_attackers,
    "training_fashion": comparison, "training_fashion_500": comparison, "training_fashion_own": comparison,
    "training_why": training_why, "training_cifar10": comparison, "training_ablation": training_ablation,
    "results": overview, "gpu": gpu_tables.gpu, "gpu_recipes": gpu_tables.recipes,
    "cluster_parameters": scale_tables.parameters, "cluster_examples": scale_tables.examples,
    "cluster_sizes": scale_tables.sizes, "cluster_leases": scale_tables.leases,
}  # fmt: skip


def read_results() -> dict[str, Any]:
    """What each section's table is made of."""
    results = json.loads((RESULTS / "operators.json").read_text())
    results["models"] = json.loads((RESULTS / "models.json").read_text())
    faces = json.loads((RESULTS / "anonymity.json").read_text())
    results |= {f"anonymity_{part}": faces[part] for part in ("levels", "ladder", "caught", "release")}
    results["anonymity_leave_one_out"] = faces["release"]
    results["face_model"] = json.loads((RESULTS / "face_model.json").read_text())
    results["anonymity_bound"] = {"bound": faces["bound"], "levels": faces["levels"]["levels"]}
    results["anonymity_attackers"] = faces.get("attackers")
    results["guidance"] = json.loads((RESULTS / "guidance.json").read_text())
    results["face_utility"] = json.loads((RESULTS / "utility.json").read_text())
    results["recognisers"] = json.loads((RESULTS / "recognisers.json").read_text())
    results |= {file.stem: json.loads(file.read_text()) for file in RESULTS.glob("training_*.json")}
    results["gpu"] = gpu_tables.read(RESULTS / "gpu")
    results["gpu_recipes"] = json.loads((RESULTS / "gpu" / "recipes.json").read_text())
    cluster = json.loads((RESULTS / "cluster.json").read_text())
    results |= {f"cluster_{part}": cluster for part in ("parameters", "examples", "sizes", "leases")}
    results["certificates"] = {file.name: json.loads(file.read_text()) for file in CERTIFICATES.glob("*.json")}
    results["results"] = results | {"faces_speed": json.loads((RESULTS / "faces_speed.json").read_text())}
    return results


def with_tables(text: str, results: dict[str, Any]) -> str:
    """A document's text with every marked table as the results have it."""

    def fresh(match: re.Match[str]) -> str:
        return f"<!-- evidence {match[1]} -->\n{SECTIONS[match[1]](results[match[1]])}\n<!-- end -->"

    return re.sub(r"<!-- evidence (\w+) -->\n.*?<!-- end -->", fresh, text, flags=re.DOTALL)


def main() -> None:
    results = read_results()
    for file in DOCUMENTS:
        file.write_text(with_tables(file.read_text(), results))


if __name__ == "__main__":
    main()
