"""Write the pack's workflows, each in both formats, and its blueprints, from dev/workflows. From the repository's root:

    python -m dev.make_workflows                 starts the ComfyUI at COMFYUI_PATH
    python -m dev.make_workflows --server URL    asks a running one that has this pack and IPAdapter_plus

A ComfyUI is needed for the nodes' inputs, outputs and defaults.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from sid_core.headless.host import find_comfyui, serve

from .workflows.api_format import api_graph
from .workflows.blueprint_format import blueprint_file
from .workflows.blueprints import BLUEPRINTS
from .workflows.sheets import SHEETS
from .workflows.titles import TITLES
from .workflows.ui_format import ui_workflow

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows"
OTHER_PACK = ROOT / "tests" / "fakes" / "ipadapter_plus_nodes.py"  # stands in for one that a workflow uses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="URL")
    with comfyui(parser.parse_args().server) as url, urllib.request.urlopen(f"{url}/object_info") as answer:
        definitions = json.load(answer)
    for make_sheet in SHEETS:
        sheet = make_sheet()
        write(WORKFLOWS / f"{TITLES[sheet.name]}.json", ui_workflow(sheet, definitions))
        write(WORKFLOWS / "api" / f"{sheet.name}.json", api_graph(sheet, definitions))
    for make_blueprint in BLUEPRINTS:
        made = make_blueprint()
        write(ROOT / "subgraphs" / f"{made.sheet.name}.json", blueprint_file(made, definitions))


@contextlib.contextmanager
def comfyui(url: str | None) -> Iterator[str]:
    """The address of the ComfyUI to ask."""
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder:
        custom_nodes = Path(folder) / "custom_nodes"
        custom_nodes.mkdir()
        shutil.copy(OTHER_PACK, custom_nodes)
        with serve(find_comfyui(None), base_directory=Path(folder)) as host:
            yield host.url


def write(path: Path, graph: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    print(path.relative_to(WORKFLOWS.parent))


if __name__ == "__main__":
    main()
