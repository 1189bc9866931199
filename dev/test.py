"""`python dev/test.py`: lint, format and all tests. Makes what is needed on the first run; arguments go to pytest."""

from __future__ import annotations

import os
import sys

import browser
import command
import environment

CHECKS = (("ruff", "check"), ("ruff", "format", "--check"), ("pytest",))
MOST_WORKERS = 4  # each has a ComfyUI in itself and starts another: some 3 GB


def main() -> int:
    """Run every check, and return the exit code of the first that failed."""
    try:
        made = environment.ensure(test_tools=True)
    except environment.SetupError as error:
        return command.fail(str(error))
    except KeyboardInterrupt:
        command.say("interrupted; what is done is kept", sys.stderr)
        return command.INTERRUPTED
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    # More threads than cores wait for each other.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    variables = threads | dict(os.environ, COMFYUI_PATH=str(made.comfyui), **browser_variables())
    codes = []
    for module, *arguments in CHECKS:
        # A file's tests share what they set up, so that files are what is given out.
        parallel = [f"--numprocesses={workers}", "--dist=loadfile"]
        extra = [*parallel, *sys.argv[1:]] if module == "pytest" else []
        command.say(" ".join(["\n$", module, *arguments, *extra]))
        # Isolated: else the repository root is on sys.path, where nodes/ shadows ComfyUI's own nodes.py.
        line = [str(made.python), "-I", "-m", module, *arguments, *extra]
        codes.append(command.run(line, variables, str(environment.ROOT)))
        if codes[-1] > 128:  # ended by a signal: that was meant for all of it
            return codes[-1]
    return next((code for code in codes if code), 0)


def browser_variables() -> dict[str, str]:
    """What the browser tests read: the browser to use, and whether its absence is a failure."""
    is_ci = os.environ.get("CI", "").lower() in ("true", "1")
    found = browser.find() or (browser.install() if is_ci else None)
    if found is None:
        command.say(f"{browser.HOW_TO_GET} The browser tests will {'fail' if is_ci else 'be skipped'} without one.")
    variables = {"CHROMIUM": found} if found else {}
    if is_ci:
        variables["SID_REQUIRE_BROWSER"] = "1"
    return variables


if __name__ == "__main__":
    sys.exit(main())
