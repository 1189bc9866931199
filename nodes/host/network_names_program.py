"""`network_names_program.py COMFYUI`: network_names.of_weights of the shapes on standard input, both as JSON.

For the command line, which has no ComfyUI in its own process: the maps of names are ComfyUI's, and so is the answer.
The last line of the output is the answer; the lines before are ComfyUI's.
"""

import importlib.util
import json
import sys
from pathlib import Path


def main() -> None:
    comfyui = sys.argv[1]
    shapes = json.load(sys.stdin)
    # Its own folder is not to be searched for modules; and no GPU is needed, which may be in use, or without a driver.
    sys.path[0:1] = [comfyui]
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    file = Path(__file__).with_name("network_names.py")
    spec = importlib.util.spec_from_file_location("network_names", file)
    names = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(names)
    sys.stdout.write(f"\n{json.dumps(names.of_weights(shapes))}\n")


if __name__ == "__main__":
    main()
