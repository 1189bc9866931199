"""`python path/to/sid-few-step/sid_core run GRAPH.json`, from any folder; `python -m sid_core` in the pack's own.

See headless/command.py. Run by its path, Python may look for modules in this folder or, as the one that comes with
ComfyUI portable, nowhere at all; so the pack's folder is put first.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from sid_core.headless.command import main

    sys.exit(main())
