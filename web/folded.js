// Settings that few change are folded away, in the classic node and in Nodes 2.0. What is folded says the server
// ("advanced"); of ComfyUI's own, newer Nodes 2.0 alone fold it.
import { app } from "../../scripts/app.js"
import { describedInputs, isOurs, watch } from "./pack.mjs"
import { say } from "./words.mjs"

app.registerExtension({
  name: "sid.folded",
  nodeCreated(node) {
    if (!isOurs(node)) return
    const described = describedInputs(node)
    const folded = (node.widgets ?? []).filter((widget) => described[widget.name]?.advanced)
    if (folded.length) fold(node, folded, described)
  },
})

const GAP = 4 // pixels between widgets

function fold(node, folded, described) {
  // Versions of the editor that have this method fold in Nodes 2.0, with a button of their own.
  const foldsItself = typeof node.hasAdvancedWidgets === "function"
  const toggle = () => show(!node.showAdvanced)
  const button = node.addWidget("button", "more or fewer settings", null, toggle, { serialize: false })
  button.serialize = false
  if (foldsItself) button.options.canvasOnly = true
  node.widgets.splice(node.widgets.indexOf(button), 1)
  node.widgets.splice(node.widgets.findLastIndex((widget) => widget.name in described) + 1, 0, button)
  let shown

  function show(on) {
    shown = node.showAdvanced = Boolean(on)
    fit(node, () => {
      for (const widget of folded) {
        widget.hidden = !shown // in the classic node
        widget.computeSize = shown ? undefined : () => [0, -GAP] // for which ComfyUI 0.3 else leaves room
      }
      button.label = shown ? `▴ ${say("fewer settings")}` : `▾ ${say("{count} more settings", { count: folded.length })}`
    })
    if (!foldsItself) foldRows(node, folded, !shown)
  }

  show(false)
  node.setSize([node.size[0], node.computeSize()[1]])
  watch(node, () => {
    if (shown !== Boolean(node.showAdvanced)) show(node.showAdvanced) // by the editor's own button
    if (!foldsItself) foldRows(node, folded, !shown)
  })
  const configured = node.onConfigure
  node.onConfigure = function (info) {
    configured?.call(this, info)
    show(info.showAdvanced)
    // A saved graph's height stays, though it may have been for more: other nodes are placed around it.
    node.setSize([node.size[0], Math.max(info.size?.[1] ?? 0, node.computeSize()[1])])
  }
}

/** In Nodes 2.0 of ComfyUI 0.3, which keeps what a widget once was. */
function foldRows(node, folded, hide) {
  if (node.graph !== app.canvas?.graph) return
  const rows = document.querySelectorAll(`[data-node-id="${node.id}"] .lg-node-widget`)
  const drawn = node.widgets.filter(({ type, options }) => type && !options?.hidden && !options?.canvasOnly)
  if (rows.length !== drawn.length) return
  drawn.forEach((widget, i) => (rows[i].style.display = hide && folded.includes(widget) ? "none" : ""))
}

/** Change what a node holds, and its height by as much as that takes. */
function fit(node, change) {
  const before = node.computeSize()[1]
  change()
  const after = node.computeSize()[1]
  if (after !== before) node.setSize([node.size[0], Math.max(after, node.size[1] + after - before)])
  node.setDirtyCanvas?.(true, true)
}
