// A node's values and choices are its own. ComfyUI 0.33 keeps them by the graph, the node's number and the widget's
// name, and a graph that was cleared counts from 1 again and has no id: a new CleanStyle in the place of a SiD Distill
// that was removed would begin with that one's alpha, 1 in place of 0.01, and take no decimals that the other has not.
import { app } from "../../scripts/app.js"
import { isOurs } from "./pack.mjs"

app.registerExtension({
  name: "sid.own_values",
  nodeCreated(node) {
    if (!isOurs(node)) return
    for (const widget of node.widgets ?? []) if (typeof widget.setNodeId === "function") keepOwn(widget)
  },
})

function keepOwn(widget) {
  const { setNodeId } = widget
  // Not among what ComfyUI copies of a widget.
  Object.defineProperty(widget, "setNodeId", {
    configurable: true,
    writable: true,
    value(id) {
      const { value } = this
      setNodeId.call(this, id) // which may find what another node has left
      this.value = value
      if (this._state) this._state.options = this.options
    },
  })
}
