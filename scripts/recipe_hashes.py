"""Does a change leave every image as it was? The hashes of what each offline recipe makes of its first six samples.

python scripts/recipe_hashes.py FILE            # before the change: writes the hashes
python scripts/recipe_hashes.py --check FILE    # after it: exit code 1 and the recipes that differ

Only images count, by their bytes and their order in the shards: keys, provenance and records may change. A hash holds
on one kind of machine only. Recipes whose model or data are not embedded are left out, and counted; those that read
the shared photographs run where these lie beside the checkout.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from pipeline.recipes import read_recipe, shipped

ROOT = Path(__file__).resolve().parents[1]
SALT = "a salt for comparisons only"
IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".gif"}


def offline(recipe: Path) -> bool:
    """A job whose model is embedded and whose input is embedded, or shared photographs that are there."""
    if recipe.parent.name != "job":
        return False
    content = read_recipe(recipe, "job")
    urls = content["input"].get("urls", "")
    here = urls.startswith("embedded:") or (urls.startswith("../") and bool(list(ROOT.parent.glob(urls[3:]))))
    generated = content["input"]["format"] == "captions"
    return content["model"]["path"].startswith("embedded:") and (here or generated)


def images_of(recipe: str, folder: Path) -> list[str]:
    """The hashes of all images, shard by shard."""
    command = [sys.executable, "-m", "pipeline.cli", "run", recipe, "--limit", "6", "--set", f"output.path={folder}"]
    if "lfw" in recipe:
        command += ["--set", f"release.path={folder}_release", "--set", f"release.audit={folder}_audit"]
    environment = os.environ | {"DOPPEL_SALT": SALT, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    made = []
    for shard in sorted(folder.rglob("*.tar")):
        if "_doppel" in shard.parts or "faces" in shard.parts:
            continue
        with tarfile.open(shard) as tar:
            for member in tar:
                if Path(member.name).suffix in IMAGES:
                    content = tar.extractfile(member)
                    assert content is not None
                    made.append(hashlib.sha256(content.read()).hexdigest())
    if not made:
        raise SystemExit(f"{recipe} made no image: {done.stdout}{done.stderr}")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", action="append", metavar="RECIPE", help="only these recipes")
    args = parser.parse_args()
    every = shipped()
    chosen = [name for name in sorted(every) if offline(every[name]) and (args.only is None or name in args.only)]
    found = {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = images_of(name, Path(folder) / "out")
        print(f"{name}: {len(found[name])} images", flush=True)
    print(f"{len(chosen)} recipes; {len(every) - len(chosen)} of another kind or with weights or data from elsewhere")
    if not args.check:
        args.file.write_text(json.dumps(found, indent=1) + "\n")
        return
    before = json.loads(args.file.read_text())
    wrong = [name for name in before if (args.only is None or name in args.only) and found.get(name) != before[name]]
    print(f"different: {', '.join(wrong)}" if wrong else "all images are the same")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
