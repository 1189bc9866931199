"""The demo's scripts import one another by plain names, as they do when one of them is run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from demo_protocol import Protocol
    from pictures import Pictures

# At the end: these names must not come before anybody else's.
sys.path.append(str(Path(__file__).parents[2] / "demo"))


@pytest.fixture(scope="session")
def protocol() -> "Protocol":
    """The shipped one. A test that asks for it skips where no reference has been packed."""
    from demo_protocol import Protocol
    from reference import FILE, load_reference

    if not FILE.exists():
        pytest.skip(f"there is no {FILE.name}: demo/pack_reference.py makes it")
    return Protocol(load_reference())


@pytest.fixture(scope="session")
def shown() -> "Pictures":
    """The shipped sheet's pictures. A test that asks for them skips where no sheet has been packed."""
    from sheet import FILE, load_sheet

    if not FILE.exists():
        pytest.skip(f"there is no {FILE.name}: demo/pack_reference.py makes it")
    return load_sheet()
