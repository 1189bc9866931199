// A preset above all other widgets, and what it decides greyed out. Saved graphs have widgets' values by their place in
// the server's order, which stays: values are put into that order when a graph is saved, and out of it when one is read.
import { app } from "../../scripts/app.js"
import { chain, describedInputs, isOurs, redraw, widgetOf } from "./pack.mjs"

app.registerExtension({
  name: "sid.preset",
  nodeCreated(node) {
    if (!isOurs(node)) return
    const described = describedInputs(node)
    const first = node.widgets?.find((widget) => described[widget.name]?.first)
    if (!first) return
    showFirst(node, first)
    decide(node, first, described[first.name].decides)
  },
})

const isSaved = (widget) => widget.serialize !== false

function showFirst(node, first) {
  const saved = node.widgets.filter(isSaved).map((widget) => widget.name)
  node.widgets.splice(node.widgets.indexOf(first), 1)
  node.widgets.unshift(first)

  const configure = node.configure
  node.configure = function (info) {
    const values = info.widgets_values
    if (!Array.isArray(values)) return configure.call(this, info)
    const byName = new Map(saved.map((name, place) => [name, values[place]]))
    const shown = node.widgets.filter(isSaved).map((widget) => byName.get(widget.name) ?? widget.value)
    return configure.call(this, { ...info, widgets_values: shown })
  }
  chain(node, "onSerialize", (info) => {
    info.widgets_values = saved.map((name) => widgetOf(node, name)?.value ?? null)
  })
}

/** decides: for each choice of the preset, values by widgets' names. */
function decide(node, preset, decides) {
  const names = Object.keys(Object.values(decides)[0])

  function grey() {
    for (const name of names) {
      const widget = widgetOf(node, name)
      if (!widget) continue
      widget.disabled = preset.value in decides
      widget.options.disabled = widget.disabled
    }
    redraw(node)
  }

  chain(preset, "callback", () => {
    for (const [name, value] of Object.entries(decides[preset.value] ?? {})) {
      const widget = widgetOf(node, name)
      if (!widget) continue
      widget.value = value
      widget.callback?.(value) // by which Nodes 2.0 of ComfyUI 0.3 learns of it
    }
    grey()
  })
  chain(node, "onConfigure", grey)
}
