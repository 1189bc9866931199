"""Finding a Chromium or Chrome for the browser tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import command

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
WINDOWS_FOLDERS = ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
WINDOWS_PLACES = (
    "Google/Chrome/Application/chrome.exe",
    "Chromium/Application/chrome.exe",
    "Microsoft/Edge/Application/msedge.exe",
)
HOW_TO_GET = (
    "Install Chromium or Chrome (Debian: apt install chromium), or name its executable in the environment variable "
    "CHROMIUM: none was found."
)


def find() -> str | None:
    """The executable: the one in CHROMIUM, else on the PATH, else where Windows and macOS keep it."""
    if os.environ.get("CHROMIUM"):
        return os.environ["CHROMIUM"]
    on_path = (shutil.which(name) for name in COMMANDS)
    windows = (
        Path(os.environ[name]) / place for name in WINDOWS_FOLDERS if name in os.environ for place in WINDOWS_PLACES
    )
    places = (str(place) for place in (*map(Path, MAC_PLACES), *windows) if place.is_file())
    return next((found for found in (*on_path, *places) if found), None)


def install() -> str | None:
    """Install Debian's chromium where we are allowed to, which is in a CI container."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return None
    command.say("Installing chromium by apt-get (113 MB to download, 479 MB on disk).")
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        with command.start(["apt-get", "-q", *arguments], quiet, "/", subprocess.PIPE) as process:
            output = process.stdout.read().decode("utf-8", "replace")
        if process.returncode:
            command.say(f"apt-get {arguments[0]} failed:\n{output[-2000:]}")
            return None
    return find()
