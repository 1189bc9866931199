// The panel on SiD Distill that shows its run: one DOM widget, for both of the editor's ways to draw a node.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"
import { chain } from "./pack.mjs"
import { Panel } from "./panel/panel.mjs"

const panels = new Set()

app.registerExtension({
  name: "sid.panel",
  setup() {
    api.addEventListener("sid.training", ({ detail }) => {
      for (const panel of panels) panel.hear(detail)
    })
    api.addEventListener("progress_text", ({ detail }) => {
      for (const panel of panels) panel.hearText(detail.nodeId, detail.text)
    })
    api.addEventListener("executing", () => {
      for (const panel of panels) panel.forgetText() // the node is about to begin, or has ended
    })
  },
  nodeCreated(node) {
    if (node.comfyClass !== "SiDDistill") return
    const panel = new Panel(node, api)
    panels.add(panel)
    const widget = node.addDOMWidget("run", "sid.panel", panel.element, {
      serialize: false, // neither in the graph that is queued
      hideOnZoom: false,
      getMinHeight: () => panel.height,
    })
    node.size[0] = Math.max(node.size[0], 360)
    widget.serialize = false // nor among the values that a workflow keeps by their places
    chain(node, "onConfigure", () => panel.follow())
    chain(node, "onRemoved", () => {
      panels.delete(panel)
      panel.remove()
    })
  },
})
