"""The demo's scripts import one another by plain names, as they do when one of them is run."""

import sys
from pathlib import Path

# At the end: these names must not come before anybody else's.
sys.path.append(str(Path(__file__).parents[2] / "demo"))
