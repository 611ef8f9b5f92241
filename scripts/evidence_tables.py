"""Writes the tables of README.md and docs/ from scripts/evidence/*.json, between their `evidence` markers.

python scripts/evidence_tables.py
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bound_tables
import gpu_tables

from training.compare.report import markdown, verdict

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "evidence"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
CERTIFICATES = ROOT / "pipeline" / "assets" / "certificates"
VIEWS = ("flip_vertical", "rotate_90", "jigsaw", "inner_circle", "patch_permutation")
CUTS = ("2×2 tiles", "4×4 tiles", "7×7 tiles", "14×14 tiles", "single pixels")
SEARCHES = ("naive", "reverse", "parrot")
LEARNT = ("softmax", "perceptron", "map_to_clean")
NAMES = ("Dlib", "dlib-chip", "faceres", "lbph", "small")
"""Recognisers, the gate's of the evidence first; without `faceres` where that was not on the machine."""
CASES = ("one source", "one source, unlimited copies", "three sources")


def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def measured(names: tuple[str, ...], rows: dict[str, Any]) -> list[str]:
    """Those of the recognisers that every row has figures of."""
    return [name for name in names if all(f"T1 {name}" in row["rank_1"] for row in rows.values())]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


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


def anonymity_levels(found: dict[str, Any]) -> str:
    """Figure 5 of the Boomerang paper on our data."""
    names, rows = measured(NAMES, found["levels"]), list[list[Any]]()
    for level, row in found["levels"].items():
        distances = [f"{row[n]['distance']:.3f} ± {row[n]['se']:.3f}" for n in names[:2]]
        over = [f"{percent(row[n]['over'])} ± {100 * row[n]['over_se']:.0f}" for n in names]
        rank = [percent(row["rank_1"][f"T1 {n}"]["share"]) for n in names]
        faces = f"{100 * row['faces']['with_face_if_source_has']:.1f} %"
        rows.append([level, faces, *distances, *over, " · ".join(rank), f"{row['psnr']:.1f} dB"])
    head = [
        "t_boom", "faces found", "distance, Dlib", "distance, dlib-chip", *(f"over, {n}" for n in names),
        f"T1 rank 1: {' · '.join(names)}", "PSNR",
    ]  # fmt: skip
    return table(head, rows)


def anonymity_bound(found: dict[str, Any]) -> str:
    """What no attacker can do better, by level, beside those that were tried."""
    bound, levels = found["bound"], found["levels"]
    return f"{table(bound_tables.head(), bound_tables.rows(bound, levels))}\n\n{bound_tables.levels_for(bound)}"


def anonymity_ladder(found: dict[str, Any]) -> str:
    names = measured(NAMES[2:], found)
    rows = [
        [
            name, f"{100 * row['released']:.1f} %", f"{row['mean_level']:.2f}", f"{row['images_per_second']:.2f}",
            f"{row['psnr']:.2f} dB", f"{row['pose']['eyes']['mean']:.3f}",
            " · ".join(f"{100 * row['rank_1'][f'T1 {n}']['share']:.1f} %" for n in names),
        ]
        for name, row in found.items()
    ]  # fmt: skip
    head = ["t_boom", "released", "mean level", "images/s", "PSNR", "eyes moved by", f"T1 rank 1: {' · '.join(names)}"]
    return table(head, rows)


def guidance(found: dict[str, Any]) -> str:
    """What the recogniser that was left out finds, and what is left of the images, by way."""
    rows = []
    for held_out, one in found.items():
        for name, way in one["ways"].items():
            if "T1" not in way:
                rows.append([f"`{held_out}`", name, f"{100 * way['released']:.0f} %", *["–"] * 6])
                continue
            first, near, eyes = way["T1"]["rank"]["1"], way["nearer_than_a_stranger"], way["pose"]["eyes"]["mean"]
            rows.append([
                f"`{held_out}`", name, f"{100 * way['released']:.0f} %",
                f"{100 * first['share']:.1f} % ({100 * first['low']:.1f}–{100 * first['high']:.1f})",
                f"{near['share']:.2f} ({near['low']:.2f}–{near['high']:.2f})",
                "–" if way["T2"] is None else f"{100 * way['T2']['rank']['1']['share']:.0f} %",
                f"{way['psnr']:.1f} dB", f"{eyes:.3f}", f"{100 * way['gender']['agree']:.0f} %",
            ])  # fmt: skip
    head = ["left out", "way", "released", "T1 rank 1", "own nearer than a stranger's", "T2 rank 1", "PSNR",
            "eyes moved by", "gender agrees"]  # fmt: skip
    return table(head, rows)


def anonymity_caught(found: dict[str, Any]) -> str:
    rows = []
    for name, row in found.items():
        for suffix, part in (("", row), (", undone from 20 known pairs", row.get("after 20 known pairs"))):
            if part is not None:
                rank = [part["rank_1"].get(n, {"share": None}) for n in ("T1 dlib-chip", "T2 dlib-chip", "T2 colours")]
                rows.append([name + suffix, *part["verdicts"].values(), *(percent(r["share"]) for r in rank)])
    head = ["operator", "anonymous", "recognisable", "undecided", "T1 rank 1, dlib-chip", "T2 rank 1, dlib-chip",
            "T2 rank 1, colours"]  # fmt: skip
    return table(head, rows)


def anonymity_release(found: dict[str, Any]) -> str:
    """Rank 1 of every attacker with its interval, T1 and T2 apart."""
    rows = []
    for threat in ("T1", "T2"):
        for name, one in found["audit"][threat]["recognisers"].items():
            searches = [one["reidentification"].get(kind) for kind in ("clean", *SEARCHES)]
            learnt = [one["trained"].get(kind) for kind in LEARNT]
            cells = [first_rank(figures) for figures in (*searches, *learnt)]
            rows.append([threat, f"`{name}`", *cells, f"{100 * searches[1]['rank']['1']['chance']:.2f} %"])
    head = [
        "threat",
        "attacker",
        "clean",
        "naive",
        "reverse",
        "parrot",
        "trained: softmax",
        "perceptron",
        "map",
        "chance",
    ]
    return table(head, rows)


def anonymity_attackers(found: dict[str, Any] | None) -> str:
    """Rank 1, beside chance, of attackers who train networks or run the operator, by level."""
    if found is None:
        return "Not measured yet: `python scripts/evidence_anonymity.py --only attackers`."
    attacks = ("naive", "own_parrot", "fine_tuned", "fine_tuned_parrot", "inverter")
    rows = []
    for level, row in found["levels"].items():
        names = dict.fromkeys(tuple(key.split()[:2]) for key in row if key.count(" ") == 2 and key[:2] in ("T1", "T2"))
        for threat, name in sorted(names, key=lambda pair: pair[0]):
            cells = [beside_chance(row.get(f"{threat} {name} {attack}")) for attack in attacks]
            rows.append([level, threat, f"`{name}`", *cells])
    return table(["t_boom", "threat", "attacker", *(f"`{attack}`" for attack in attacks)], rows)


def beside_chance(rank: dict[str, float] | None) -> str:
    if rank is None:
        return "–"
    share = f"{100 * rank['share']:.1f} ({100 * rank['low']:.1f}–{100 * rank['high']:.1f})"
    return f"{share}; {100 * rank['chance']:.2f} %"


def first_rank(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "–"
    rank = figures["rank"]["1"]
    return f"{100 * rank['share']:.1f} ({100 * rank['low']:.1f}–{100 * rank['high']:.1f}) %"


def attackers(found: dict[str, Any]) -> str:
    rows = [
        [
            f"`{name}`", *(f"{row['tar'][far]:.3f}" for far in ("1e-2", "1e-3")), f"{row['eer']:.3f}",
            percent(row["second_photograph"]["rank_1"]),
        ]
        for name, row in found["recognisers"].items()
    ]  # fmt: skip
    return table(
        ["recogniser, clean photographs of 64 px", "TAR at FAR 1e-2", "1e-3", "EER", "second photograph found first"],
        rows,
    )


def face_model(found: dict[str, Any]) -> str:
    rows = []
    for name, model in found.items():
        for level, row in model["levels"].items() if name != "machine" else ():
            first = [percent(rate and rate["share"]) for rate in row["rank_1_of_a_second_photograph"].values()]
            eyes = f"{row['eyes']['mean']:.3f} ({row['eyes']['median']:.3f})"
            rows.append([name, level, percent(row["faces_found"]), eyes, f"{row['psnr_64']:.1f} dB",
                         f"{row['fid_small']:.1f}", *first])  # fmt: skip
    first = next(model for name, model in found.items() if name != "machine")
    judges = list(next(iter(first["levels"].values()))["rank_1_of_a_second_photograph"])
    head = ["model", "t_boom", "faces found", "eyes off by, mean (median)", "PSNR at 64 × 64", "FID (`small`)"]
    told = f"{first['people']} people, {first['gallery']} others, {first['steps']} steps; {found['machine']}."
    return f"{table([*head, *(f'found first, {name}' for name in judges)], rows)}\n\n{told}"


def certificates(found: dict[str, Any]) -> str:
    rows = [
        [
            f"`{c['recogniser']}`", f"{c['size'][0]} px", f"{100 * c['faces_found']:.1f} %",
            *(f"{c['tar'][far]:.3f}" for far in ("1e-2", "1e-3", "1e-4")), f"{c['eer']:.3f}",
            "–" if c["deepface_threshold"] is None else f"{c['deepface_tar']:.3f}, {c['deepface_far']:.4f}",
        ]
        for c in sorted(found.values(), key=lambda c: (c["recogniser"], c["size"]))
    ]  # fmt: skip
    head = [
        "recogniser",
        "size",
        "photographs with a face found",
        "TAR at FAR 1e-2",
        "1e-3",
        "1e-4",
        "EER",
        "TAR, FAR at deepface's threshold",
    ]
    return table(head, rows)


def face_utility(found: dict[str, Any]) -> str:
    """Disguises with the worst attack on each and what it keeps; – where nothing was left to measure."""
    rows = []
    for name, one in found["disguises"].items():
        worst, kept = one["attacks"][one["worst"]], one["utility"]
        landmarks, attributes, learnt = kept["landmarks"], kept["attributes"], kept["classifier"]
        share = [attributes.get(key, {}).get("share") for key in ("gender", "emotion")]
        rows.append([
            name, f"{one['worst']}: {100 * worst['share']:.0f} % ({100 * worst['low']:.0f}–{100 * worst['high']:.0f})",
            percent(kept["faces_found"]), "–" if landmarks is None else f"{landmarks['error']['mean']:.3f}",
            "–" if landmarks is None else f"{landmarks['yaw']['mean']:.0f}°", *map(percent, share),
            f"{attributes['age']['mean_difference']:.1f}" if "age" in attributes else "–", f"{kept['psnr']:.1f}",
            f"{kept['fid of `small`']:.0f}", percent(learnt and learnt["accuracy"]),
        ])  # fmt: skip
    head = [
        "disguise", "worst attack: rank 1 (95 %)", "faces found", "landmarks, eye distances", "yaw", "same gender",
        "same expression", "age, years", "PSNR, dB", "FID of `small`", "classifier",
    ]  # fmt: skip
    return table(head, rows)


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
    outside = [threats["T1"][name] for name in ("lbph", "small")]
    searched = max(figures["reidentification"][kind]["rank"]["1"]["share"] for figures in outside for kind in SEARCHES)
    trained = max(figures["trained"][kind]["rank"]["1"]["share"] for figures in outside for kind in LEARNT)
    thumbnail = max(threats["T2"]["pixels"]["reidentification"][kind]["rank"]["1"]["share"] for kind in SEARCHES[:2])
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
    "enhance": enhance, "models": models, "face_model": face_model,
    "certificates": certificates, "recognisers": attackers,
    "face_utility": face_utility,
    "anonymity_levels": anonymity_levels, "anonymity_ladder": anonymity_ladder, "anonymity_caught": anonymity_caught,
    "guidance": guidance,
    "anonymity_release": anonymity_release, "anonymity_bound": anonymity_bound,
    "anonymity_attackers": anonymity_attackers,
    "training_fashion": comparison, "training_fashion_500": comparison,
    "training_fashion_own": comparison,
    "training_why": training_why,
    "training_cifar10": comparison,
    "training_ablation": training_ablation,
    "results": overview, "gpu": gpu_tables.gpu, "gpu_recipes": gpu_tables.recipes,
}  # fmt: skip


def read_results() -> dict[str, Any]:
    """What each section's table is made of."""
    results = json.loads((RESULTS / "operators.json").read_text())
    results["models"] = json.loads((RESULTS / "models.json").read_text())
    faces = json.loads((RESULTS / "anonymity.json").read_text())
    results |= {f"anonymity_{part}": faces[part] for part in ("levels", "ladder", "caught", "release")}
    results["face_model"] = json.loads((RESULTS / "face_model.json").read_text())
    results["anonymity_bound"] = {"bound": faces["bound"], "levels": faces["levels"]["levels"]}
    results["anonymity_attackers"] = faces.get("attackers")
    results["guidance"] = json.loads((RESULTS / "guidance.json").read_text())
    results["face_utility"] = json.loads((RESULTS / "utility.json").read_text())
    results["recognisers"] = json.loads((RESULTS / "recognisers.json").read_text())
    results |= {file.stem: json.loads(file.read_text()) for file in RESULTS.glob("training_*.json")}
    results["gpu"] = gpu_tables.read(RESULTS / "gpu")
    results["gpu_recipes"] = json.loads((RESULTS / "gpu" / "recipes.json").read_text())
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
