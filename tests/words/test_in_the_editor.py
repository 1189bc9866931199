"""Names, tooltips and help pages as ComfyUI's own editor shows them, in each language."""

import json
from pathlib import Path

import pytest

from sid_pack.dev.locales.catalogue import LANGUAGES, inputs_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
WIDTH = 280  # of what a help page has in the editor's panel, as it opens first, in pixels
STORES = "[...document.querySelectorAll('*')].find((each) => each.__vue_app__).__vue_app__.config.globalProperties"

IN_A_LANGUAGE = """async (language) => {
  await window.app.extensionManager.setting.set("Comfy.Locale", language)
}"""
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
OPEN_HELP = f"""async (kind) => {{
  const stores = {STORES}.$pinia._s
  const tabs = window.app.extensionManager.sidebarTab
  if (tabs.activeSidebarTabId !== "node-library") tabs.toggleSidebarTab("node-library")
  stores.get("nodeHelp").closeHelp()
  await new Promise((done) => requestAnimationFrame(done))
  stores.get("nodeHelp").openHelp(stores.get("nodeDef").nodeDefsByName[kind])
}}"""
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


@pytest.fixture(scope="module", params=["en", *LANGUAGES])
def in_language(request, editor) -> str:  # noqa: F811
    """The editor started in this language."""
    editor.page.evaluate(IN_A_LANGUAGE, request.param)
    editor.page.reload()
    editor.page.wait_for_function("() => window.app?.extensionManager && window.app.graph && window.LiteGraph")
    editor.page.wait_for_selector("canvas#graph-canvas")
    editor.page.wait_for_function("() => 'SiDDistill' in window.LiteGraph.registered_node_types")
    return request.param


def test_nodes_show_what_the_language_has(in_language, editor, definitions):  # noqa: F811
    said = json.loads((ROOT / "locales" / in_language / "nodeDefs.json").read_text(encoding="utf-8"))
    kinds = list(definitions)
    for kind, shown in zip(kinds, editor.page.evaluate(SHOWN, kinds), strict=True):
        words = said[kind]
        assert shown["title"] == words["display_name"]
        assert shown["description"] == words["description"]
        names = {name: entry["name"] for name, entry in words["inputs"].items()}
        assert {name: shown["sockets"][name] for name in names} == names
        labels = {name: label for name, label in shown["widgets"].items() if name in names}
        assert labels == {name: names[name] for name in labels}
        assert shown["outputs"] == [output["name"] for output in words["outputs"].values()]
        for name in inputs_of(definitions[kind]):
            if "tooltip" in words["inputs"][name]:
                assert shown["tooltips"][name] == words["inputs"][name]["tooltip"]


@pytest.mark.parametrize("kind", PAGES)
def test_a_help_page_fits_the_panel(kind, in_language, editor):  # noqa: F811
    said = json.loads((ROOT / "locales" / in_language / "nodeDefs.json").read_text(encoding="utf-8"))
    editor.page.evaluate(OPEN_HELP, kind)
    editor.page.wait_for_function(LOADED, arg=said[kind]["display_name"], timeout=60_000)
    page = editor.page.evaluate(MEASURED, WIDTH)
    assert page == {"tooWide": [], "scrolled": False, "pictures": []}
