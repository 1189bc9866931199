"""A browser for the tests that open workflows in ComfyUI's own editor."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from workflows.shipped import NAMES, api_graph

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

    from sid_pack.sid_core.headless.host import Host

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
# A machine that also trains takes a while to start the editor.
LIMIT_MS = 300_000
# The inputs that name a file, and the folder of models it is chosen from.
FILES = {
    "ckpt_name": "checkpoints",
    "student": "diffusion_models",
    "clip_name": "clip_vision",
    "ip_adapter": "ipadapter",
    "style_encoder": "ipadapter",
    "ipadapter_file": "ipadapter",
    "style_model_name": "style_models",
}
# The editor asks for optional files of the user's, and a registry on the internet that tests don't reach.
NOT_OURS = ("Failed to load resource", "Content Security Policy")


@dataclass
class Editor:
    """ComfyUI's editor in a browser, with the errors it has logged since a workflow was opened."""

    page: "Page"
    errors: list[str] = field(default_factory=list)

    def open(self, workflow: dict[str, Any]) -> None:
        self.errors.clear()
        self.page.evaluate("async (workflow) => { await window.app.loadGraphData(workflow) }", workflow)
        # Nodes are measured when they are first drawn.
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def open_template(self, workflow: dict[str, Any], title: str) -> None:
        """As from the template browser, which shows all of it. Its links are drawn when this returns."""
        self.errors.clear()
        load = "async ([graph, name]) => { await app.loadGraphData(graph, true, true, name, {openSource: 'template'}) }"
        self.page.evaluate(load, [workflow, title])
        drawn = "() => [...(app.graph.links.values?.() ?? Object.values(app.graph.links))].every((link) => link.path)"
        self.page.wait_for_function(drawn)
        self.page.wait_for_timeout(500)  # the view is fitted after the first frame

    @property
    def frontend(self) -> tuple[int, int]:
        major, minor, *_ = self.page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__").split(".")
        return int(major), int(minor)

    def draw_as_nodes_2(self, on: bool) -> None:
        self.page.evaluate(
            "async (on) => { await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on) }", on
        )

    def api_graph(self) -> dict[str, Any]:
        """The open workflow as the editor would queue it."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def note_console(self, message: "ConsoleMessage") -> None:
        if message.type == "error" and not any(text in message.text for text in NOT_OURS):
            self.errors.append(message.text)


# For a module and not the session: while playwright is on, its event loop runs in this thread, and no other can.
@pytest.fixture(scope="module")
def editor(chromium: str, comfyui_server: "Host") -> Iterator[Editor]:
    from playwright.sync_api import sync_playwright

    _set_up_user(comfyui_server.url)
    _place_files(comfyui_server.base_directory / "models")
    place_style_picture(comfyui_server.base_directory)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1600, "height": 950})
        page.set_default_timeout(LIMIT_MS)
        editor = Editor(page)
        page.on("console", editor.note_console)
        page.on("pageerror", lambda error: editor.errors.append(str(error)))
        page.goto(comfyui_server.url)
        page.wait_for_function("() => window.app?.extensionManager && window.app.graph && window.LiteGraph")
        page.wait_for_selector("canvas#graph-canvas")
        yield editor
        browser.close()


def _set_up_user(url: str) -> None:
    """A user who has seen the editor before: at a first start it lays its templates over everything."""
    settings = json.dumps({"Comfy.TutorialCompleted": True}).encode()
    request = urllib.request.Request(f"{url}/settings", settings, {"Content-Type": "application/json"})
    urllib.request.urlopen(request).close()


def place_style_picture(base: Path) -> None:
    """The picture that comes with ComfyUI, and that workflows show until users choose their own."""
    (base / "input").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), "navy").save(base / "input" / "example.png")


def _place_files(models: Path) -> None:
    """Empty files in the place of those that users have, as the editor marks a node whose file is missing."""
    for name in NAMES:
        for node in api_graph(name).values():
            for chosen, folder in FILES.items():
                if isinstance(node["inputs"].get(chosen), str):
                    file = models / folder / node["inputs"][chosen]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()
