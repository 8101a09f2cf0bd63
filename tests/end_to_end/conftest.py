"""Lets the tests of this folder import the rehearsal and what it is made of."""

import sys
from pathlib import Path

for name in ("rehearsal", "workflows", "deployment"):
    sys.path.append(str(Path(__file__).parents[1] / name))
