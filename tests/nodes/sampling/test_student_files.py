"""What is taken for a student, and what is refused: all of it, on its base, or in one clear sentence."""

import itertools
import json
import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

ALL = "all linear and convolution layers"


def info(model):
    from sid_pack.nodes.host.model import signature_of
    from sid_pack.sid_core.files.student import StudentInfo

    return StudentInfo(steps=2, t_init=625, base=signature_of(model), run="r", guidance="lsg")


def whole_tensors(model) -> dict[str, torch.Tensor]:
    network = model.model.diffusion_model.state_dict()
    return {f"model.diffusion_model.{name}": weight.half() + 0.01 for name, weight in network.items()}


def lora_of(model, targets: str = "attention and feed-forward") -> dict[str, torch.Tensor]:
    from sid_pack.nodes.sampling.loras import lora_tensors
    from sid_pack.sid_core.training.adapters import LoRASet, find_targets

    adapters = LoRASet(find_targets(model.model.diffusion_model, targets), 4)
    return {name: tensor.half() for name, tensor in lora_tensors(model, adapters).items()}


@pytest.fixture(scope="module")
def model(comfyui):
    with torch.inference_mode(False):
        return tiny_models.sd15()


@pytest.fixture(scope="module")
def tensors(model) -> dict[str, dict[str, torch.Tensor]]:
    return {"whole": whole_tensors(model), "lora": lora_of(model)}


def load(model, path: Path):
    from sid_pack.nodes.sampling.students import load_student

    return load_student(model, path)


def refusal(model, path: Path) -> str:
    """The text of the one kind of error that a file may be answered with."""
    with pytest.raises(ValueError) as refused:
        load(model, path)
    said = str(refused.value)
    assert path.name in said and len(said) < 700 and "\n" not in said
    return said


def written(model, tmp_path, tensors, **metadata) -> Path:
    path = tmp_path / "student.safetensors"
    save_file(tensors, path, info(model).to_metadata() | {f"sid.{key}": value for key, value in metadata.items()})
    return path


KINDS = ["whole", "lora"]


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3"])
@pytest.mark.parametrize("targets", [None, "attention", "attention and feed-forward", ALL])
def test_a_whole_student_and_a_lora_of_all_layers_of_a_kind_are_loaded(family, targets, comfyui, tmp_path):
    base = getattr(tiny_models, family)()
    student = load(base, written(base, tmp_path, lora_of(base, targets) if targets else whole_tensors(base)))
    if not targets:
        own = [key for key in student.object_patches if key.startswith("diffusion_model.")]  # beyond patches
        assert len(student.patches) + len(own) == len(base.model.diffusion_model.state_dict())
    else:
        assert student.patches


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_without_the_stock_prefix_or_with_alpha_as_a_list_is_loaded_too(kind, model, tensors, tmp_path):
    plain = {name.removeprefix("model.diffusion_model."): t for name, t in tensors[kind].items()}
    plain |= {name: t.view(1) for name, t in plain.items() if name.endswith(".alpha")}
    assert load(model, written(model, tmp_path, plain)).patches


def without(name, found):
    return {key: value for key, value in found.items() if key != name}


SPOILT = {
    "is missing": lambda name, t: without(name, t),
    "is renamed": lambda name, t: without(name, t) | {f"{name}_": t[name]},
    "is one more": lambda name, t: t | {f"{name}.copy": t[name].clone()},
    "is longer": lambda name, t: t | {name: torch.cat([t[name].reshape(-1)] * 2)},
    "is flat": lambda name, t: t | {name: t[name].reshape(-1, 1, 1)},
    "is 0-D": lambda name, t: t | {name: torch.tensor([0.5, 1])[0] if t[name].ndim else torch.zeros(2)},
    "is empty": lambda name, t: t | {name: t[name].reshape(-1)[:0]},
    "is int": lambda name, t: t | {name: t[name].int()},
    "is bool": lambda name, t: t | {name: t[name].bool()},
    "is NaN in one place": lambda name, t: t | {name: with_one(t[name], float("nan"))},
    "is infinite in one place": lambda name, t: t | {name: with_one(t[name], float("-inf"))},
    "is float8 and NaN": lambda name, t: t | {name: with_one(t[name], float("nan")).to(torch.float8_e4m3fn)},
}


def with_one(tensor, value: float):
    spoilt = tensor.clone()
    spoilt.view(-1)[-1] = value
    return spoilt


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("kind", KINDS)
def test_one_tensor_that_does_not_fit_is_refused_and_named(kind, how, model, tensors, tmp_path):
    draw = random.Random(3)
    names = sorted(tensors[kind])
    ends = (".lora_down.weight", ".lora_up.weight", ".alpha") if kind == "lora" else (".weight", ".bias")
    for name in [*draw.sample(names, 4), *(next(name for name in names if name.endswith(end)) for end in ends)]:
        said = refusal(model, written(model, tmp_path, SPOILT[how](name, tensors[kind])))
        assert said.startswith("Copy student.safetensors again, or save the student anew: it is not a whole student")
        assert name.removeprefix("model.diffusion_model.").rsplit(".", 1)[0] in said


def test_a_whole_layer_less_and_no_tensors_at_all_are_refused(model, tensors, tmp_path):
    layer = next(name for name in tensors["lora"] if name.endswith(".alpha")).removesuffix(".alpha")
    less = {name: t for name, t in tensors["lora"].items() if not name.startswith(layer)}
    assert f"{layer}.lora_down.weight" in refusal(model, written(model, tmp_path, less))
    assert "more lack" in refusal(model, written(model, tmp_path, {}))


@pytest.mark.parametrize("alpha", [0.0, -4.0, float("nan"), float("inf")])
def test_an_alpha_that_would_undo_or_reverse_a_lora_is_refused(alpha, model, tensors, tmp_path):
    name = next(name for name in tensors["lora"] if name.endswith(".alpha"))
    assert name in refusal(model, written(model, tmp_path, tensors["lora"] | {name: torch.tensor(alpha)}))


def test_ranks_of_up_and_down_that_differ_are_refused(model, tensors, tmp_path):
    name = next(name for name, t in tensors["lora"].items() if name.endswith(".lora_down.weight") and t.ndim == 2)
    spoilt = tensors["lora"] | {name: tensors["lora"][name][:2].clone()}
    assert f"{name.replace('.lora_down', '.lora_up')} is of shape" in refusal(model, written(model, tmp_path, spoilt))


def test_a_lora_and_a_whole_student_in_one_file_are_refused(model, tensors, tmp_path):
    refusal(model, written(model, tmp_path, tensors["lora"] | tensors["whole"]))


# What a file says of itself

ODD = {
    "steps": ["1000000000", "1e308", "NaN", "true", '"4"', "0", "-1", "2.5", "[4]", "{}", "null", "", "9" * 5000],
    "t_init": ["0", "-5", "1e308", "NaN", "Infinity", "true", '"625"', "null", "[625]", "1001"],
    "noise_mode": ['"white"', '["fresh"]', '{"fresh": 1}', "1", "null"],
    "base": ["7", "null", "[" * 100_000, "not JSON", '"' + "x" * 1_000_000 + '"'],
    "run": ["[" * 3000 + "]" * 3000, "1", '"' + "x" * 5_000_000 + '"'],
    "guidance": ['{"a": ' * 900 + "1" + "}" * 900, "false"],
    "method": ["NaN"],
}


CASES = [(name, value) for name, values in ODD.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=lambda value: value[:12])
def test_absurd_metadata_is_refused_in_one_short_line(name, value, model, tensors, tmp_path):
    said = refusal(model, written(model, tmp_path, tensors["lora"], **{name: value}))
    assert len(said) < 300 and f"sid.{name}" in said


def test_metadata_of_100_mb_is_refused_as_shortly(model, tmp_path):
    """Of one entry: safetensors takes headers of up to 100 MB."""
    path = written(model, tmp_path, {"w": torch.zeros(1)}, run='"' + "x" * 99_000_000 + '"')
    size = path.stat().st_size
    tracemalloc.start()
    said = refusal(model, path)
    assert tracemalloc.get_traced_memory()[1] < 2 * size
    tracemalloc.stop()
    assert len(said) < 300


# Whatever else may lie there


def test_what_is_no_file_to_read_is_refused_and_not_waited_for(model, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    for name in ("folder", "dangling", "loop", "gone"):
        refusal(model, tmp_path / f"{name}.safetensors")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        assert "it is no file" in refusal(model, tmp_path / "pipe.safetensors")


def test_pointers_pages_and_pickles_are_called_what_they_are(model, tmp_path):
    trace = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (trace,)

    torch.save({"w": Bomb()}, tmp_path / "zip")
    contents = {
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
        "web page": b"\n <!DOCTYPE html><html><body>Sign in</body></html>",
        "holds no tensors": (tmp_path / "zip").read_bytes(),
        "no tensors": pickle.dumps(Bomb()),
        "no tensors ": pickle.dumps([Bomb()] * 9, protocol=2) + b"\0" * 99,
        " no tensors": pickle.dumps(Bomb(), protocol=0),
    }
    for kind, content in contents.items():
        path = tmp_path / "bomb.safetensors"
        path.write_bytes(content)
        assert kind.strip() in refusal(model, path)
    assert not trace.exists()


class Mutants:
    """Files that are nearly `whole`."""

    def __init__(self, whole: bytes, draw: random.Random):
        self.whole, self.draw = whole, draw
        length = int.from_bytes(whole[:8], "little")
        self.header, self.body = whole[8 : 8 + length], whole[8 + length :]

    def with_header(self, text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text + self.body

    def replaced(self, old: bytes, new: bytes) -> bytes:
        """With one of the places in the header where it says `old` changed."""
        at = self.draw.choice([i for i in range(len(self.header)) if self.header.startswith(old, i)])
        return self.with_header(self.header[:at] + new + self.header[at + len(old) :])

    def of_bytes(self):
        draw, header, whole = self.draw, self.header, self.whole
        for i in draw.sample(range(8 + len(header)), 80):
            yield whole[:i] + bytes([whole[i] ^ 1 << draw.randrange(8)]) + whole[i + 1 :]
        for i in draw.sample(range(len(header)), 60):
            yield self.with_header(header[:i] + bytes([draw.randrange(256)]) + header[i + 1 :])
        yield from (whole[: draw.randrange(len(whole))] for _ in range(40))
        yield from (whole + bytes(more) for more in (1, 8, 4096))
        lengths = (0, 1, len(header) - 1, len(header) + 1, 2**31, 2**63, 2**64 - 1)
        yield from (struct.pack("<Q", length) + whole[8:] for length in lengths)
        yield from (bytes(draw.randrange(256) for _ in range(99)) for _ in range(10))

    def of_tensors(self):
        kinds = [b"F32", b"I64", b"BOOL", b"F8_E4M3", b"F8_E8M0", b"F4", b"C64", b"BF16", b"I16", b"", b"F" * 999]
        shapes = [b"1", b"0", b"-1", b"1e9", b"4294967296", b"18446744073709551615", b"[]", b"null", b'"1"']
        offsets = [b"1", b"9", b"-", b"0.", b"99999999999999999999"]
        names = [b"up", b"mid", b"\xff", rb"\u0000", rb"\ud800", b"down_down", b""]
        for _ in range(5):
            yield from (self.replaced(b'"F16"', b'"' + kind + b'"') for kind in kinds)
            yield from (self.replaced(b'"shape":[', b'"shape":[' + more + b",") for more in shapes)
            yield from (self.replaced(b'"data_offsets":[', b'"data_offsets":[' + digit) for digit in offsets)
            yield from (self.replaced(b"lora_down", name) for name in names)
            yield from (self.replaced(b'"lora_unet_', b'"' + name) for name in names)

    def of_metadata(self):
        whole = json.loads(self.header)
        said = whole["__metadata__"]
        for name in said:
            for value in ("", "0", "null", "[[[]]]", r'"\ud800"', "1e999", "-0.0", "x" * 9999):
                yield self.with_header(json.dumps(whole | {"__metadata__": said | {name: value}}).encode())
        for odd in ([], 7, {}, {"__metadata__": []}, {"__metadata__": {"a": 1}}, {"w": {}}):
            yield self.with_header(json.dumps(odd).encode())
        yield self.with_header(b"[" * 99_999)


def test_hundreds_of_mutated_students_are_loaded_as_they_were_or_refused_in_words(model, tensors, tmp_path):
    """Nothing raw and nothing run; what is loaded has all patches."""
    draw = random.Random(11)
    path = written(model, tmp_path, tensors["lora"])
    whole, layers = path.read_bytes(), sum(name.endswith(".alpha") for name in tensors["lora"])
    (path := tmp_path / "mutant.safetensors").touch()
    count = loaded = 0
    mutants = Mutants(whole, draw)
    for content in itertools.chain(mutants.of_bytes(), mutants.of_tensors(), mutants.of_metadata()):
        count += 1
        path.unlink()  # what was loaded before is mapped into memory
        path.write_bytes(content)
        try:
            student = load(model, path)
        except ValueError as error:
            assert len(str(error)) < 900 and path.name in str(error), content[:300]
        else:
            loaded += 1
            assert len(student.patches) == layers and load_file(path).keys() == tensors["lora"].keys()
    assert count >= 400
    assert loaded < count / 5


def test_values_that_change_places_are_refused(model, tensors, tmp_path):
    draw = random.Random(13)
    for _ in range(40):
        kind = draw.choice(KINDS)
        one, other = draw.sample(sorted(tensors[kind]), 2)
        if tensors[kind][one].shape != tensors[kind][other].shape:
            swapped = {one: tensors[kind][other].clone(), other: tensors[kind][one].clone()}
            refusal(model, written(model, tmp_path, tensors[kind] | swapped))
