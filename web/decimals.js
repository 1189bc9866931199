// Small numbers on the pack's nodes as they are. ComfyUI shows, and keeps, as many decimals as the arrows' step has, so
// that 1e-8 may be 0; and Nodes 2.0 of ComfyUI 0.3 shows three.
import { app } from "../../scripts/app.js"
import { describedInputs, isOurs, redraw, watch } from "./pack.mjs"

app.registerExtension({
  name: "sid.decimals",
  nodeCreated(node) {
    if (!isOurs(node)) return
    const described = describedInputs(node)
    for (const widget of node.widgets ?? []) {
      const { round } = described[widget.name] ?? {}
      if (widget.type === "number" && round < 1e-3) showAll(node, widget, decimalsOf(round))
    }
  },
})

const decimalsOf = (step) => Math.max(0, -Math.floor(Math.log10(step)))

/** As many decimals as the value has, and in what is typed in up to `most`. */
function showAll(node, widget, most) {
  const { options, callback } = widget
  options.maxFractionDigits = most
  widget.callback = function (...args) {
    options.precision = most // to which what was typed in is rounded
    callback?.apply(this, args)
    show()
  }

  function show() {
    const needed = Number(widget.value).toFixed(most).replace(/\.?0+$/, "").split(".")[1]?.length ?? 0
    const shown = Math.max(1, needed)
    if (options.precision === shown) return
    options.precision = shown
    redraw(node)
  }

  show()
  watch(node, show) // also where a graph, an undo or a preset has set it
}
