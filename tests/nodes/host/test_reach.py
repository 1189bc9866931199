"""What may be read: on a server for this machine alone everything, on any other the input folder."""

import os
import sys

import pytest


@pytest.fixture
def reach(comfyui, monkeypatch):
    from sid_pack.nodes.host import reach

    monkeypatch.delenv("SID_READ_ANYWHERE", raising=False)
    (comfyui.base_directory / "input").mkdir(exist_ok=True)
    return reach


@pytest.fixture
def listen(reach, monkeypatch):
    """Says where the server listens."""
    return lambda addresses: monkeypatch.setattr(reach.args, "listen", addresses)


@pytest.mark.parametrize(
    ("addresses", "local"),
    [
        ("127.0.0.1", True),
        ("127.2.2.2,::1", True),
        ("localhost", True),
        ("0.0.0.0,::", False),
        ("127.0.0.1,192.168.0.5", False),
        ("192.168.0.5", False),
        ("::", False),
        ("", False),
        ("my-host", False),
    ],
)
def test_only_loopback_addresses_are_of_this_machine_alone(reach, listen, addresses, local):
    listen(addresses)
    assert reach.is_local() == reach.reads_anywhere() == local


def test_the_switch_says_otherwise_both_ways(reach, listen, monkeypatch):
    listen("0.0.0.0")
    monkeypatch.setenv("SID_READ_ANYWHERE", "1")
    assert reach.reads_anywhere() and not reach.is_local()
    listen("127.0.0.1")
    monkeypatch.setenv("SID_READ_ANYWHERE", "0")
    assert not reach.reads_anywhere() and not reach.is_local()


def test_names_in_the_input_folder_are_found_however_they_are_written(reach, listen, comfyui):
    place = comfyui.base_directory / "input"
    for addresses in ("127.0.0.1", "0.0.0.0"):
        listen(addresses)
        for given in ("a/b.txt", ' "a/b.txt" ', "'a/b.txt'", "a/../a/b.txt", "./a//b.txt", str(place / "a" / "b.txt")):
            assert reach.place_of(given) == place / "a" / "b.txt", given
        if os.sep == "/":
            assert reach.place_of(r"a\b.txt") == reach.place_of(r'"a\b.txt"') == place / "a" / "b.txt"


@pytest.mark.skipif(sys.platform == "win32", reason="links and backslashes as Unix has them")
def test_a_name_that_has_a_backslash_in_it_is_found(reach, comfyui):
    file = comfyui.base_directory / "input" / "a\\b.txt"
    file.touch()
    try:
        assert reach.place_of("a\\b.txt") == file
    finally:
        file.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="links and backslashes as Unix has them")
def test_nothing_tells_a_remote_reader_what_there_is_elsewhere(reach, listen, comfyui, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    place = comfyui.base_directory / "input"
    (place / "link").symlink_to(tmp_path)
    (place / "dangling").symlink_to(tmp_path / "nothing")
    (place / "loop").symlink_to(place / "loop" / "x")
    outside = [
        str(tmp_path / "secret.txt"), "~/.bashrc/../../x", "../" * 20 + "etc/passwd", "..", "/", "a/../../x",
        "link/secret.txt", "link", "dangling", str(place) + "x/a", r"..\x", r'"\etc\passwd"', "file/../../../etc",
    ]  # fmt: skip
    try:
        listen("127.0.0.1")
        assert reach.place_of("link/secret.txt").read_text() == "secret"
        assert reach.place_of("~") == type(place).home() and reach.place_of("/") == type(place)("/")
        listen("0.0.0.0")
        for given in outside:
            if given.startswith("~"):
                assert reach.place_of(given.partition("/")[0]) == place / "~"
                continue
            with pytest.raises(PermissionError, match="^Put .* into ComfyUI's input folder"):
                reach.place_of(given)
        said = []
        for there in (True, False):
            with pytest.raises(PermissionError) as raised:
                reach.place_of(str(tmp_path / "secret.txt"))
            said.append(str(raised.value))
            if there:
                (tmp_path / "secret.txt").unlink()
        assert said[0] == said[1]
    finally:
        for name in ("link", "dangling", "loop"):
            (place / name).unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="half characters as Unix has them")
@pytest.mark.parametrize("given", ["a\0b", "\ud800.txt", "x\udcff\ud800"])
@pytest.mark.parametrize("addresses", ["127.0.0.1", "0.0.0.0"])
def test_what_can_be_no_path_is_refused(reach, listen, addresses, given):
    listen(addresses)
    with pytest.raises(ValueError, match="^Type the path again"):
        reach.place_of(given)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" + "é" * 128, "x" * 256 + "/b"])
def test_a_name_that_no_file_can_have_is_refused(reach, name):
    with pytest.raises(ValueError, match=r"^Type the path again: .* longer than a file's name can be"):
        reach.place_of(name)
