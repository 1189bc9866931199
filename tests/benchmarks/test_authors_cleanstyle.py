"""The authors' way does what their functions do, else comparing our speed with its would mean nothing."""

import importlib.util
import math
from pathlib import Path

import pytest
from oracles import parity, relative_error

FILE = Path(__file__).parents[2] / "benchmarks" / "authors_cleanstyle.py"
ENTRIES, TENSORS = parity("cleanstyle")


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry["beta"] == 1], ids=lambda entry: entry["output"])
def test_it_equals_their_results(entry):
    spec = importlib.util.spec_from_file_location("authors_cleanstyle", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    top_k, alpha = 0, entry["alpha"]
    if "progress" in entry:
        top_k = entry["top_k"]
        alpha *= 1 - 1 / (1 + math.exp(-entry["gamma"] * (entry["progress"] - entry["center"])))
    result = module.AuthorsWay().rescaled(TENSORS[entry["input"]], top_k, alpha)
    assert relative_error(result, TENSORS[entry["output"]]) < 1e-4
