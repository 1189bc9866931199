// Inputs by the names that the nodes give them, which ComfyUI 0.3 leaves out; a translation's names stay.
import { app } from "../../scripts/app.js"
import { describedInputs, isOurs } from "./pack.mjs"

app.registerExtension({
  name: "sid.labels",
  nodeCreated(node) {
    if (!isOurs(node)) return
    const described = describedInputs(node)
    for (const widget of node.widgets ?? []) {
      const label = described[widget.name]?.display_name
      if (label && (widget.label ?? widget.name) === widget.name) widget.label = label
    }
  },
})
