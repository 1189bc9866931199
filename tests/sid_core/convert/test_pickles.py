"""Networks out of foreign pickles are what PyTorch itself would have loaded, bit by bit, and nothing is loaded."""

import io
import json
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from sid_pack.sid_core.convert.errors import ForeignFileError
from sid_pack.sid_core.convert.pickles import read_pickle

ROOT = Path(__file__).resolve().parents[3]


class Block(nn.Module):
    """What networks have: parameters, none in the place of one, buffers saved and not, modules under several names."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(width, 2 * width, bias=False)
        self.second = nn.Linear(2 * width, width)
        self.norm = nn.BatchNorm1d(width)
        self.same = self.second
        self.second_weight = self.second.weight
        self.register_parameter("none", None)
        self.register_buffer("steps", torch.arange(5))
        self.register_buffer("unsaved", torch.ones(3), persistent=False)
        self.marked = nn.Parameter(torch.randn(3))
        self.marked.note = "a parameter with an attribute"
        self.act = nn.SiLU()


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(inner=nn.ModuleList([Block(4), Block(8)]), out=nn.Conv2d(3, 2, 3)))
    net.out.weight = nn.Parameter(net.out.weight.detach().to(memory_format=torch.channels_last))
    net.out.bias = nn.Parameter(torch.randn(2, 5).half()[:, 3])
    return net


class ZipInside(pickle.Pickler):
    """Writes storages in torch.save's zip form, as some versions of PyTorch do; this one takes the older."""

    def reducer_override(self, obj):
        if not isinstance(obj, torch.storage.TypedStorage | torch.UntypedStorage):
            return NotImplemented
        buffer = io.BytesIO()
        torch.save(obj, buffer)
        return torch.storage._load_from_bytes, (buffer.getvalue(),)


def dumped(value: object, protocol: int, is_zip: bool) -> bytes:
    buffer = io.BytesIO()
    (ZipInside if is_zip else pickle.Pickler)(buffer, protocol).dump(value)
    return buffer.getvalue()


def assert_same(found, expected) -> None:
    """Names in order, kinds, shapes and all bits."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(found[name]) == bits(tensor), name


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "network.pkl"


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickled_network_is_its_state_dict(path, protocol, is_zip):
    path.write_bytes(dumped({"ema": network()}, protocol, is_zip))
    found = read_pickle(path)
    assert_same(found.tensors, network().state_dict())
    assert (found.root, found.class_name, found.others) == ("ema", "torch.nn.modules.container.Sequential", ())


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_network_by_torch_save_is_its_state_dict(path, is_zip):
    torch.save(network(), path, _use_new_zipfile_serialization=is_zip)
    found = read_pickle(path)
    assert_same(found.tensors, network().state_dict())
    assert (found.root, found.class_name) == ("", "torch.nn.modules.container.Sequential")


KINDS = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 uint16 bool complex64"


def odd_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {kind: (9 * torch.randn(3, 4)).abs().to(getattr(torch, kind)) for kind in KINDS.split()}
    base = torch.randn(6, 6)
    return tensors | {
        "a scalar": torch.tensor(5.0),
        "nothing": torch.empty(0),
        "no rows": torch.empty(0, 4, dtype=torch.float16),
        "no columns": torch.empty(4, 0),
        "turned": base.T,
        "a part": base[1:3, ::2],
        "a part of half": base.half()[5],
        "one of six": base[0, 0],
        "repeated": torch.randn(1, 3).expand(4, 3),
        "NaN": torch.tensor([float("nan"), float("inf"), -0.0]),
        "trained": torch.ones(2, requires_grad=True),
        "a parameter": nn.Parameter(torch.randn(2)),
        "with.dots": torch.ones(1),
        "ünïcode 名": torch.ones(1),
        "tied": tensors["float32"],
    }


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle with zips", "protocol 0", "protocol 2"])
def test_tensors_of_each_kind_and_shape(path, form):
    expected = odd_tensors()
    if form in ("zip", "legacy"):
        torch.save(expected, path, _use_new_zipfile_serialization=form == "zip")
    else:
        protocol = int(form[-1]) if "protocol" in form else 4
        path.write_bytes(dumped(expected, protocol, form == "pickle with zips"))
    found = read_pickle(path)
    assert_same(found.tensors, expected)
    assert found.root == ""
    assert not any(tensor.requires_grad for tensor in found.tensors.values())
    if form in ("zip", "legacy"):  # what shares its memory does so again, with its strides
        assert found.tensors["turned"].data_ptr() == found.tensors["a part"].data_ptr() - 6 * 4
        assert found.tensors["turned"].untyped_storage().data_ptr() == found.tensors["one of six"].data_ptr()
        assert found.tensors["a part"].stride() == expected["a part"].stride()
    assert found.tensors["tied"].data_ptr() == found.tensors["float32"].data_ptr()


def test_a_zip_file_without_checksums_is_read(path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(odd_tensors(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read_pickle(path).tensors, odd_tensors())


def test_unaligned_numbers_calculate_as_others_do(path):
    """In a plain pickle they begin at any byte."""
    torch.manual_seed(0)
    expected = {f"{'x' * length}": torch.randn(16, 16) for length in range(1, 9)}
    path.write_bytes(pickle.dumps(expected, protocol=4))
    found = read_pickle(path).tensors
    assert any(tensor.data_ptr() % 4 for tensor in found.values())
    for name, tensor in expected.items():
        assert torch.equal(found[name] @ found[name], tensor @ tensor)
        assert torch.equal(found[name].half().sum(0), tensor.half().sum(0))
        assert torch.equal(torch.cat([found[name], tensor]).sort().values, torch.cat([tensor, tensor]).sort().values)
        assert torch.equal(
            torch.conv2d(found[name][None, None], found[name][None, None, :3, :3]),
            torch.conv2d(tensor[None, None], tensor[None, None, :3, :3]),
        )


def state(value: float) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.full((2,), value)}


@pytest.mark.parametrize(
    ("content", "root", "others"),
    [
        ({"G": state(0), "ema": state(1)}, "ema", ("G",)),
        ({"generator": state(0), "critic": state(2), "generator_ema": state(1)}, "generator_ema", ("generator",)),
        ({"model": {"net": state(0), "ema": state(1)}, "iteration": 7}, "ema", ("net",)),
        ({"model": {"net": state(1)}, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "net", ()),
        ({"ema": None, "G_ema": {}, "net": state(1)}, "net", ()),
        ({"state_dict": state(1), "betas": torch.ones(3)}, "state_dict", ()),
        ({"state_dict": state(0), "model": state(1), "net": {}, "G": 5}, "model", ("state_dict",)),
        (state(1), "", ()),
        (OrderedDict(state(1)), "", ()),
        ({"a": {"weight": torch.ones(2)}, "epoch": 3, "args": {"lr": 1e-5}, "notes": ["x", {1, 2}]}, "", ()),
        ({"model.a.weight": torch.ones(2)}, "", ()),
    ],
)
@pytest.mark.parametrize("is_saved", [True, False])
def test_the_network_to_sample_with_is_taken(path, content, root, others, is_saved):
    if is_saved:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    found = read_pickle(path)
    assert (found.root, found.others, found.class_name, found.config) == (root, others, None, {})
    name = "model.a.weight" if "model.a.weight" in content else "a.weight"
    assert {key: tensor.tolist() for key, tensor in found.tensors.items()} == {name: [1, 1]}


@pytest.mark.parametrize(
    "prefixed",
    [
        "module.{}",
        "_orig_mod.{}",
        "module._orig_mod.module.{}",
        "_fsdp_wrapped_module.{}",
        "_orig_mod._fsdp_wrapped_module.{}",
    ],
)
def test_what_wrappers_put_before_names_is_taken_off(path, prefixed):
    names = {"a.weight": "a.weight", "b._fsdp_wrapped_module.c._checkpoint_wrapped_module.d": "b.c.d"}
    torch.save({prefixed.format(name): torch.ones(1) for name in names}, path)
    assert list(read_pickle(path).tensors) == list(names.values())


def test_a_prefix_that_not_all_have_is_a_name(path):
    torch.save({"module.a": torch.ones(1), "b.module.c": torch.ones(1)}, path)
    assert list(read_pickle(path).tensors) == ["module.a", "b.module.c"]


def test_a_wrapped_network_is_told_by_its_own_class(path):
    path.write_bytes(pickle.dumps({"ema": nn.DataParallel(network())}))
    found = read_pickle(path)
    assert_same(found.tensors, network().state_dict())
    assert found.class_name == "torch.nn.modules.container.Sequential"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(2, 2).to_sparse(), "is of a kind that isn't read here"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "are of a kind that isn't read here"),
        (torch.ones(2, device="meta"), "is of a kind that isn't read here"),
        (torch.ones(2, dtype=torch.complex64).conj(), "conjugated"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_more_than_its_numbers_is_refused_by_name(path, value, said):
    torch.save({"a": torch.ones(2), "b": value}, path)
    with pytest.raises(
        ForeignFileError, match=rf"^(Use another file than|Copy or download) network.pkl.*: it.*({said})"
    ):
        read_pickle(path)


def test_calls_within_calls_without_end_are_damage(path):
    """A few thousand bytes of them are more than a stack holds; no program writes one within another."""
    deep = 1000
    rebuild, kind = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00", b"ctorch\nTensor\nq\x01"
    opened = b"\x80\x02" + rebuild + kind + b"00h\x00" + b"(h\x00h\x01" * deep
    path.write_bytes(opened + b")N" + b"tN" * (deep - 1) + b"tR.")
    with pytest.raises(ForeignFileError, match="^Copy or download network.pkl again: .*nested too deeply"):
        read_pickle(path)


def test_tensors_can_be_changed_and_the_file_is_not(path):
    torch.save({"a": torch.ones(4)}, path)
    before = path.read_bytes()
    found = read_pickle(path).tensors["a"]
    found.mul_(3)
    assert found.tolist() == [3, 3, 3, 3]
    assert path.read_bytes() == before


def test_a_class_that_is_nowhere_is_never_asked_for(path):
    """The file of a program that isn't installed here."""
    content = pickle.dumps({"ema": network()}, protocol=4)
    for module in (b"torch.nn.modules.container", b"torch.nn.modules.linear", b"torch.nn.modules.conv"):
        content = content.replace(
            b"\x8c" + bytes([len(module)]) + module, b"\x8c" + bytes([len(module)]) + b"z" * len(module)
        )
    path.write_bytes(content)
    found = read_pickle(path)
    assert found.class_name == "z" * len("torch.nn.modules.container") + ".Sequential"
    assert_same(found.tensors, network().state_dict())


LARGE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from sid_core.convert.pickles import read_pickle
# Of this process alone: what the resource module tells begins with what its parent had.
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
read_pickle(Path(sys.argv[2]))
before = peak()
found = [read_pickle(Path(path)).tensors for path in sys.argv[3:]]
read = peak() - before
print(json.dumps([read, [[float(tensor.mean()) for tensor in tensors.values()] for tensors in found]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are let go of in another way, or can't be counted")
def test_large_files_are_not_read_into_memory(tmp_path):
    expected = {str(index): torch.full((4_000_000,), float(index)) for index in range(8)}  # 128 MB, three times
    paths = [tmp_path / name for name in ("small.pkl", "large.pkl", "large.pt", "legacy.pt")]
    for path, tensors in zip(paths, ({"a": torch.ones(1)}, expected, expected, expected), strict=True):
        if path.suffix == ".pkl":
            path.write_bytes(pickle.dumps(tensors, protocol=4))
        else:
            torch.save(tensors, path, _use_new_zipfile_serialization=path.stem == "large")
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(ROOT), *map(str, paths)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    grown_kb, means = json.loads(done.stdout)
    assert means == [list(range(8))] * 3
    # A zip file's checksums are of all its numbers, which are let go of piece by piece: here a storage of 16 MB.
    assert grown_kb < 40_000
