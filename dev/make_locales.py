"""Write locales/, what ComfyUI's editor shows of the nodes by language. From the repository's root:

    python -m dev.make_locales                 starts the ComfyUI at COMFYUI_PATH
    python -m dev.make_locales --server URL    asks a running one that has this pack

The words are in dev/locales. What lacks a translation there, and what is left over, is named, and nothing is written.
"""

import argparse
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from .locales.catalogue import LANGUAGES, Catalogue
from .locales.node_defs import english, translated
from .make_workflows import comfyui

LOCALES = Path(__file__).resolve().parent.parent / "locales"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="URL")
    with comfyui(parser.parse_args().server) as url, urllib.request.urlopen(f"{url}/object_info") as answer:
        every = json.load(answer)
    ours = every["SiDDistill"]["python_module"]
    definitions = {name: node for name, node in every.items() if node["python_module"] == ours}
    catalogues = {language: Catalogue.of(language) for language in LANGUAGES}
    if faults := [f"{name}.json: {each}" for name, own in catalogues.items() for each in own.faults(definitions)]:
        print("\n".join(faults))
        return 1
    write("en", "nodeDefs", english(definitions))
    for language, catalogue in catalogues.items():
        write(language, "nodeDefs", translated(definitions, catalogue))
        write(language, "main", {"nodeCategories": catalogue.categories})
    return 0


def write(language: str, name: str, content: dict[str, Any]) -> None:
    path = LOCALES / language / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    print(path.relative_to(LOCALES.parent))


if __name__ == "__main__":
    sys.exit(main())
