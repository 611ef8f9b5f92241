"""The documents' pictures: `doppel preview` of every shipped job on embedded weights and images.

They go into scripts/evidence/preview_RECIPE.png.

python scripts/preview_recipes.py [RECIPE …]
"""

import sys
from pathlib import Path

from pipeline.cli import main as doppel
from pipeline.recipes import read_recipe, shipped

OUT = Path(__file__).parent / "evidence"


def embedded(recipe: Path) -> bool:
    content = read_recipe(recipe, "job")
    return all(str(place).startswith("embedded:") for place in (content["model"]["path"], content["input"].get("urls")))


def main() -> None:
    OUT.mkdir(exist_ok=True)
    named = sys.argv[1:] or [name for name, path in shipped().items() if path.parent.name == "job" and embedded(path)]
    for name in named:
        animate = ["--animate", str(OUT / f"{name}.gif")] if name == "tile_morph" else []
        code = doppel(["preview", name, "-n", "8", "-o", str(OUT / f"preview_{name}.png"), *animate])
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
