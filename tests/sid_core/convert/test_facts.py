"""What is known of a student by its name, by what lies beside it, and by what its user says."""

import json
from pathlib import Path

import pytest

from sid_pack.sid_core.convert.errors import ForeignFileError
from sid_pack.sid_core.convert.facts import Facts, from_name, from_sidecar, student_info

NAMES = {
    "batch512_cfg4.54.54.5_t625_8380_v2.pkl": Facts(1, 625, "lsg 4.5", None, "sid"),
    "batch512_sd21_cfg1.51.51.5_t625_9728_v2.pkl": Facts(1, 625, "lsg 1.5", None, "sid"),
    "batch512_cfg222_t625_4812_v2.pkl": Facts(1, 625, "lsg 2", None, "sid"),
    "batch512_cfg1.5_41_2step_6553.pkl": Facts(2, None, "lsg 1.5", None, "sid"),
    "SiDA_SD15_001_1_ls1_lsd10_lsggan_0.001_NoEMA_joint2step_023768.pkl": Facts(2, None, None, None, "sida"),
    "SiD-DiT-SD3.5-large": Facts(None, None, None, None, "sid"),
    "dmd2_sdxl_4step_unet_fp16.bin": Facts(4, 999, None, None, "dmd2"),
    "dmd2_sdxl_1step_unet_fp16.bin": Facts(1, 399, None, None, "dmd2"),
    "Hyper-SDXL-8steps-lora.safetensors": Facts(8, None, None, None, "hyper-sd"),
    "sd_xl_base_1.0.safetensors": Facts(),
    "steps.safetensors": Facts(),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_what_its_authors_put_into_it_and_nothing_else(name):
    assert from_name(name) == NAMES[name]


UNKNOWN = Facts()


def info(path: Path, wanted: Facts = UNKNOWN, flow: bool = False, **metadata: str):
    return student_info(wanted, path, metadata, "SD15-1-00000000", flow)


def test_what_the_user_says_goes_before_the_file_and_that_before_its_name(tmp_path):
    path = tmp_path / "x_cfg2_8step.safetensors"
    path.with_suffix(".json").write_text(json.dumps({"steps": 3, "t_init": 700}))
    found, told = info(path, Facts(guidance="mine"), **{"sid.steps": "2"})
    assert (found.steps, found.t_init, found.guidance, found.noise_mode) == (2, 700, "mine", "fresh")
    assert told == (
        "guidance mine as asked; steps 2 by its metadata; t_init 700 by the JSON beside it; noise_mode fresh, "
        "method unknown as usual"
    )


def test_what_is_not_said_is_as_it_usually_is_of_that_kind(tmp_path):
    assert info(tmp_path / "a_2step.pth")[0].t_init == 625
    assert info(tmp_path / "a_2step.pth", flow=True)[0].t_init == 1
    assert info(tmp_path / "SiD-DiT-SD3-medium", flow=True)[0].steps == 4


def test_the_number_of_steps_is_asked_for(tmp_path):
    with pytest.raises(ForeignFileError, match=r"^Say how many steps x\.bin is for: by --steps N .* x\.json beside it"):
        info(tmp_path / "x.bin")


@pytest.mark.parametrize("text", ["[" * 5000, "no json", '{"steps": "four"}', '{"steps": 0}', '{"t_init": NaN}'])
def test_a_json_beside_it_that_says_nothing_usable_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ForeignFileError, match=r"^Mend .*x\.json"):
        from_sidecar(tmp_path / "x.bin")
