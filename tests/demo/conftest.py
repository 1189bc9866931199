"""The demo's scripts import one another by plain names, as they do when one of them is run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from demo_protocol import DemoProtocol
    from emoji import EmojiSet

# At the end: these names must not come before anybody else's.
sys.path.append(str(Path(__file__).parents[2] / "demo"))


@pytest.fixture(scope="session")
def emoji() -> "EmojiSet":
    from emoji import load_emoji

    return load_emoji()


@pytest.fixture(scope="session")
def protocol(emoji: "EmojiSet") -> "DemoProtocol":
    from demo_protocol import DemoProtocol

    return DemoProtocol(emoji)
