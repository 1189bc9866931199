"""`python dev/test.py`: lint, format and all tests. Makes what is needed on the first run; arguments go to pytest."""

from __future__ import annotations

import os
import sys

import browser
import command
import environment

CHECKS = (("ruff", "check"), ("ruff", "format", "--check"), ("pytest",))


def main() -> int:
    """Run every check, and return the exit code of the first that failed."""
    try:
        made = environment.ensure(test_tools=True)
    except environment.SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    variables = dict(os.environ, COMFYUI_PATH=str(made.comfyui), **browser_variables())
    codes = []
    for module, *arguments in CHECKS:
        extra = sys.argv[1:] if module == "pytest" else []
        print(" ".join(["\n$", module, *arguments, *extra]), flush=True)
        # Isolated: else the repository root is on sys.path, where nodes/ shadows ComfyUI's own nodes.py.
        line = [str(made.python), "-I", "-m", module, *arguments, *extra]
        codes.append(command.run(line, variables, str(environment.ROOT)))
    return next((code for code in codes if code), 0)


def browser_variables() -> dict[str, str]:
    """What the browser tests read: the browser to use, and whether its absence is a failure."""
    is_ci = os.environ.get("CI", "").lower() in ("true", "1")
    found = browser.find() or (browser.install() if is_ci else None)
    if found is None:
        print(f"The browser tests will {'fail' if is_ci else 'be skipped'}: {browser.HOW_TO_GET}", flush=True)
    variables = {"CHROMIUM": found} if found else {}
    if is_ci:
        variables["SID_REQUIRE_BROWSER"] = "1"
    return variables


if __name__ == "__main__":
    sys.exit(main())
