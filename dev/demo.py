"""`python dev/demo.py`: see the pack work. Makes what is needed on the first run; arguments go to demo/run.py."""

from __future__ import annotations

import os
import sys

import command
import environment


def main() -> int:
    """Run the demo in the project's environment and return its exit code."""
    try:
        made = environment.ensure()
    except environment.SetupError as error:
        return command.fail(str(error))
    except KeyboardInterrupt:
        command.say("interrupted; what is done is kept", sys.stderr)
        return command.INTERRUPTED
    variables = dict(os.environ, COMFYUI_PATH=str(made.comfyui))
    code = command.run([str(made.python), "demo/run.py", *sys.argv[1:]], variables, str(environment.ROOT))
    if code > 128:  # by a signal, also where it had nothing to save
        command.say("interrupted; the same command goes on with what is done", sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
