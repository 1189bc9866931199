"""Names, tooltips and help pages as ComfyUI's own editor shows them, in each language."""

import json
from pathlib import Path
from typing import Any

import pytest

from sid_pack.dev.locales.catalogue import inputs_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
WIDTH = 280  # of what a help page has in the editor's panel, as it opens first, in pixels
STORES = "[...document.querySelectorAll('*')].find((each) => each.__vue_app__).__vue_app__.config.globalProperties"

SHOWN = f"""(kinds) => kinds.map((kind) => {{
  const node = window.LiteGraph.createNode(kind)
  const said = (key) => {STORES}.$t(`nodeDefs.${{kind}}.${{key}}`)
  return {{
    title: node.title,
    widgets: Object.fromEntries(node.widgets?.map((widget) => [widget.name, widget.label]) ?? []),
    sockets: Object.fromEntries(node.inputs.map((socket) => [socket.name, socket.localized_name])),
    outputs: node.outputs.map((socket) => socket.localized_name),
    description: said("description"),
    tooltips: Object.fromEntries(node.inputs.map((socket) => [socket.name, said(`inputs.${{socket.name}}.tooltip`)])),
  }}
}})"""
# As a user does: the button with an i above a node that is selected. Where it opens the help depends on the editor.
SELECT = """(kind) => {
  const { graph, canvas } = window.app
  graph.clear()
  const node = window.LiteGraph.createNode(kind)
  graph.add(node)
  canvas.selectNode(node)
}"""
HELP_BUTTON = "[data-testid=info-button]"
LOADED = """(title) => {
  const pictures = [...document.querySelectorAll(".node-help-content img")]
  const shown = document.querySelector(".node-help-content h1")?.textContent
  return shown === title && pictures.every((each) => each.complete)
}"""
MEASURED = """(width) => {
  const page = document.querySelector(".node-help-content h1").parentElement
  page.style.width = `${width}px`
  const edge = page.getBoundingClientRect().left + width + 0.5
  const all = [...page.querySelectorAll("*")]
  return {
    tooWide: all
      .filter((each) => each.getBoundingClientRect().right > edge)
      .map((each) => each.textContent || each.src),
    scrolled: page.scrollWidth > width,
    pictures: [...page.querySelectorAll("img")].filter((each) => each.naturalWidth === 0).map((each) => each.src),
  }
}"""


LANGUAGE_OF = {"en": "en-US", "zh": "zh-CN", "ja": "ja-JP"}
TITLE = "() => window.LiteGraph?.registered_node_types?.SiDDistill?.title"
# Older editors (1.32) load their own words of a language after the packs' and lose those; newer ones add them again.
ADD_AGAIN = """async (language) => {
  const app = [...document.querySelectorAll("*")].find((each) => each.__vue_app__).__vue_app__
  const { provides } = app._context
  const found = Object.getOwnPropertySymbols(provides).map((symbol) => provides[symbol])
  const served = await window.comfyAPI.api.api.getCustomNodesI18n()
  found.find((each) => each?.global?.mergeLocaleMessage).global.mergeLocaleMessage(language, served[language])
  await window.app.extensionManager.command.execute("Comfy.RefreshNodeDefinitions")
}"""


@pytest.fixture(scope="module", params=LANGUAGE_OF)
def shown(request, editor, comfyui_server):  # noqa: F811
    """(language, the editor's page in a browser of that language)."""
    language, title = request.param, words(request.param)["SiDDistill"]["display_name"]
    context = editor.page.context.browser.new_context(
        locale=LANGUAGE_OF[language], viewport={"width": 1600, "height": 950}
    )
    page = context.new_page()
    page.set_default_timeout(300_000)
    page.goto(comfyui_server.url)
    page.wait_for_function("() => window.app?.extensionManager && window.app.graph && window.LiteGraph")
    page.wait_for_selector("canvas#graph-canvas")
    page.wait_for_function(TITLE)
    if page.evaluate(TITLE) != title:
        page.evaluate(ADD_AGAIN, language)
    yield language, page
    context.close()


def words(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_nodes_show_what_the_language_has(shown, definitions):
    language, page = shown
    said, kinds = words(language), list(definitions)
    for kind, node in zip(kinds, page.evaluate(SHOWN, kinds), strict=True):
        own = said[kind]
        assert node["title"] == own["display_name"]
        assert node["description"] == own["description"]
        names = {name: entry["name"] for name, entry in own["inputs"].items()}
        assert {name: node["sockets"][name] for name in names} == names
        labels = {name: label for name, label in node["widgets"].items() if name in names}
        assert labels == {name: names[name] for name in labels}
        assert node["outputs"] == [output["name"] for output in own["outputs"].values()]
        for name in inputs_of(definitions[kind]):
            if "tooltip" in own["inputs"][name]:
                assert node["tooltips"][name] == own["inputs"][name]["tooltip"]


@pytest.mark.parametrize("kind", PAGES)
def test_a_help_page_fits_the_panel(kind, shown):
    language, page = shown
    page.evaluate(SELECT, kind)
    page.locator(HELP_BUTTON).dispatch_event("click")
    page.wait_for_function(LOADED, arg=words(language)[kind]["display_name"], timeout=60_000)
    assert page.evaluate(MEASURED, WIDTH) == {"tooWide": [], "scrolled": False, "pictures": []}
