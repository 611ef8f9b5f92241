"""`python -m tests.tiny FOLDER`: one of each, to try recipes on."""

import sys
from pathlib import Path

from tests.tiny import FAMILIES

for name, build in FAMILIES.items():
    build(Path(sys.argv[1]) / name)
