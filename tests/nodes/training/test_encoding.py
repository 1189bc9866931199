"""Encodings of the demo's prompts in a real ComfyUI: made once, found again, and the same as encoding afresh."""

import logging
import os

import pytest
import torch
from graphs import distilled, node

from sid_pack.sid_core.data.encodings import SHARD


@pytest.fixture
def tokenized(monkeypatch, comfyui):
    """The texts that have gone through a text encoder, but for the graph's own two prompts."""
    import comfy.sd

    seen, plain = [], comfy.sd.CLIP.tokenize

    def tokenize(clip, text, *args, **kwargs):
        if text not in ("", "red apple"):
            seen.append(text)
        return plain(clip, text, *args, **kwargs)

    monkeypatch.setattr(comfy.sd.CLIP, "tokenize", tokenize)
    return seen


@pytest.fixture
def used(monkeypatch, comfyui):
    """The encodings that distillations have been given."""
    from sid_pack.nodes.training import distill

    given, plain = [], distill.encoded

    def encoded(*args):
        given.append(plain(*args))
        return given[-1]

    monkeypatch.setattr(distill, "encoded", encoded)
    return given


def numbered(kind: str, count: int) -> list[str]:
    """Prompts that no other test has; words that the demo's text encoder knows, and combines by their places."""
    words = ["red", "blue", "green", "yellow", "face", "cat", "dog", "heart", "apple", "moon", "sun", "star"]
    return [f"{kind} {words[i % 12]} {words[i // 12 % 12]} {i}" for i in range(count)]


def graph(texts: list[str], name: str, **changes) -> dict:
    changed = distilled(run_name=name, **changes)
    changed["prompts"] = node("SiDPrompts", text="\n".join(texts), file="")
    return changed


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def student(result) -> dict:
    assert result.success, result.error
    return result.value("distilled").get_attachment("sid_student_lora")


def test_a_batch_is_what_encoding_those_prompts_afresh_gives(run_graph, used):
    from sid_pack.nodes.host.conditioning import conditioning_tensors

    texts = numbered("afresh", SHARD + 20)
    result = run_graph(graph(texts, "afresh"))
    assert result.success, result.error
    rows = [SHARD + 19, 3, SHARD, 3]
    clip, model = result.value("demo", 1), result.value("guider").model_patcher
    with torch.inference_mode():
        alone = [
            conditioning_tensors(
                model, clip.encode_from_tokens_scheduled(clip.tokenize(texts[row])), torch.zeros(1, 16, 8, 8)
            )
            for row in rows
        ]
    batch = used[0].batch(torch.tensor(rows))
    assert same(batch, {name: torch.cat([cond[name] for cond in alone]) for name in alone[0]})
    assert not torch.equal(batch["c_crossattn"][0], batch["c_crossattn"][1])


def test_prompts_are_encoded_once_for_all_runs(run_graph, tokenized, comfyui):
    texts = numbered("once", 5)
    first = run_graph(graph(texts, "once"))
    assert first.success and tokenized == texts
    left = comfyui.base_directory / "output" / "sid_encodings" / "another encoder" / ".a.0123abcd-1.tmp"
    left.parent.mkdir()
    left.touch()
    os.utime(left, (0, 0))
    again = run_graph(graph(texts, "another run"))
    assert same(student(first), student(again)) and tokenized == texts
    assert run_graph(graph([*texts, "one more"], "longer")).success
    assert not left.exists()  # of a process that was killed long ago
    assert tokenized == [*texts, *texts, "one more"]  # less than a shard


def test_cancel_keeps_the_shards_that_were_encoded(run_graph, tokenized, monkeypatch):
    import comfy.model_management

    from sid_pack.nodes.host.texts import AT_ONCE

    texts, stopped = numbered("cancel", 2 * SHARD + 10), SHARD + 2 * AT_ONCE
    plain, calls = comfy.model_management.throw_exception_if_processing_interrupted, []

    def cancel_late():
        calls.append(1)
        if len(tokenized) == stopped:
            comfy.model_management.interrupt_current_processing()
        plain()

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancel_late)
    assert not run_graph(graph(texts, "cancel encoding")).success
    assert tokenized == texts[:stopped]
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", plain)
    tokenized.clear()
    assert run_graph(graph(texts, "cancel encoding")).success
    assert tokenized == texts[SHARD:]


def test_a_damaged_shard_is_said_and_made_again_and_the_student_is_the_same(run_graph, tokenized, used, caplog):
    texts = numbered("damaged", 3)
    whole = run_graph(graph(texts, "whole"))
    file = used[0].shards[0]
    content = bytearray(file.read_bytes())
    for place in range(-3000, 0, 10):  # in each of the prompts, whichever is drawn first
        content[place * 6] ^= 1
    file.write_bytes(content)
    tokenized.clear()
    with caplog.at_level(logging.WARNING):
        damaged = run_graph(graph(texts, "damaged"))
    assert same(student(whole), student(damaged))
    assert tokenized == texts
    assert file.name in caplog.text and "encoded again" in caplog.text


def test_a_prompt_file_that_has_moved_is_named_and_nothing_is_lost(run_graph, tokenized, tmp_path, comfyui, caplog):
    texts = numbered("moved", 4)
    old, new = tmp_path / "old.txt", tmp_path / "elsewhere" / "new.txt"
    old.write_text("\n".join(texts))

    def queued(file, iterations):
        queue = distilled(run_name="moved", iterations=iterations, existing_run="continue it")
        queue["prompts"] = node("SiDPrompts", text="", file=str(file))
        return run_graph(queue)

    assert queued(old, 2).success
    new.parent.mkdir()
    old.rename(new)
    missing = queued(old, 4)
    assert not missing.success and "old.txt" in missing.error and "give the full path" in missing.error
    with caplog.at_level(logging.INFO):
        found = queued(new, 4)
    assert found.success, found.error
    assert "goes on from iteration 2" in caplog.text
    assert tokenized == texts
    unbroken = run_graph(graph(texts, "not moved", iterations=4))
    assert same(student(found), student(unbroken))


def test_progress_of_encoding_is_told(run_graph, monkeypatch):
    from sid_pack.nodes.training import encoding

    said = []
    monkeypatch.setattr(encoding.say, "on_node", lambda text, node_id=None: said.append((text, node_id)))
    result = run_graph(graph(numbered("progress", SHARD + 1), "progress"))
    assert result.success, result.error
    text, node_id = [one for one in said if one[0].startswith("encoding")][-1]
    assert text.startswith(f"encoding prompts: {SHARD + 1}/{SHARD + 1}, ") and text.endswith("/s, 0 s left")
    assert node_id == "distilled"
    bars = [data["value"] for event, data in result.events if event == "progress" and data["max"] == SHARD + 1]
    assert bars[-1] == SHARD + 1


def test_too_small_a_disk_is_said_after_the_first_shard(run_graph, tokenized, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    texts = numbered("full", 2 * SHARD)
    result = run_graph(graph(texts, "full disk"))
    assert not result.success
    assert "GB free" in result.error and "--output-directory" in result.error
    assert tokenized == texts[:SHARD]


@pytest.fixture(scope="module")
def wires(comfyui):
    """The demo's CLIP and MODEL, some prompts, and what digests them."""
    result = comfyui.executor()(graph(numbered("digest", 2), "digest"))
    from sid_pack.nodes.host.fingerprints import encoding_digest

    clip, model, prompts = result.value("demo", 1), result.value("demo"), result.value("prompts")

    def digest(clip=clip, size=8, prompts=prompts):
        return encoding_digest(clip, model, torch.zeros(1, 16, size, size), prompts)

    return clip, digest


def weight_of(clip) -> str:
    """The name of a matrix of the text encoder, one that the host's patches reach."""
    weights = clip.cond_stage_model.named_parameters()
    return next(name for name, weight in weights if weight.ndim == 2 and name.endswith(".weight"))


def test_another_size_or_clip_skip_is_another_encoding(wires):
    clip, digest = wires
    skipping = clip.clone()
    skipping.clip_layer(-2)
    assert len({digest(), digest(size=16), digest(skipping)}) == 3
    assert digest() == digest()


def test_a_patched_text_encoder_is_another_whether_its_patches_are_loaded_or_not(wires):
    import comfy.model_management

    clip, digest = wires
    name = weight_of(clip)
    original = dict(clip.cond_stage_model.named_parameters())[name].detach().clone()
    shape = original.shape

    def patched(strength: float, seed: int):
        clone = clip.clone()
        change = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        clone.add_patches({name: (change,)}, strength)
        return clone

    patches = [(0.5, 0), (1.0, 0), (0.5, 1)]
    before = [digest(), *(digest(patched(*patch)) for patch in patches)]
    assert len(set(before)) == 4
    for loaded in (patched(0.5, 0), clip, patched(1.0, 0)):
        comfy.model_management.load_models_gpu([loaded.patcher], force_full_load=True)
        changed = dict(clip.cond_stage_model.named_parameters())[name]
        assert torch.equal(changed, original) == (loaded is clip)  # the host has put the patches in
        assert [digest(), *(digest(patched(*patch)) for patch in patches)] == before
    comfy.model_management.load_models_gpu([clip.patcher], force_full_load=True)


def test_hooks_of_a_text_encoder_are_a_part_of_it(wires):
    """As ComfyUI's Set CLIP Hooks puts them on: a LoRA that is in none of its patches."""
    from comfy.hooks import HookGroup, HookKeyframe, WeightHook

    clip, digest = wires

    def hooked(strength: float, seed: int = 0, frame: float = 1.0, applied: bool = False):
        hook = WeightHook(1.0, strength)
        hook.weights = {"a": torch.randn(2, 2, generator=torch.manual_seed(seed))}
        hook.hook_keyframe.add(HookKeyframe(frame))
        group, clone = HookGroup(), clip.clone()
        group.add(hook)
        if applied:
            clone.apply_hooks_to_conds = group
        clone.patcher.forced_hooks = group
        return clone

    told = [digest(), *(digest(hooked(*of)) for of in [(0.5,), (1.0,), (0.5, 1), (0.5, 0, 0.3), (0.5, 0, 1.0, True)])]
    assert len(set(told)) == len(told)
    assert digest(hooked(0.5)) == told[1]


def test_one_changed_weight_is_another_encoder(wires):
    clip, digest = wires
    weights = dict(clip.cond_stage_model.named_parameters())[weight_of(clip)].data
    before, kept = digest(), weights.clone()
    for place in [(0, 0), (weights.shape[0] // 2, 1), (-1, -1), (1, weights.shape[1] // 3)]:
        with torch.inference_mode():
            weights[place] = torch.nextafter(weights[place], torch.tensor(9.0, dtype=weights.dtype))
            after = digest()
            weights.copy_(kept)
        assert after != before
    assert digest() == before


def test_an_embedding_file_that_changes_is_another_encoding(wires, comfyui):
    import folder_paths

    from sid_pack.sid_core.data.prompts import write_prompts

    _, digest = wires
    folder = comfyui.base_directory / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    assert str(folder) in folder_paths.get_folder_paths("embeddings")
    using, plain = write_prompts(["a photo of embedding:cat"]), write_prompts(["a photo of a cat"])
    before = digest(prompts=using), digest(prompts=plain)
    (folder / "cat.safetensors").write_bytes(b"cat")
    try:
        assert digest(prompts=using) != before[0]
        assert digest(prompts=plain) == before[1]
    finally:
        (folder / "cat.safetensors").unlink()
