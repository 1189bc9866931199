// What CleanStyle takes out, on CleanStyle and CleanStyle Spectrum: the schedule at once, the singular values from the
// first run on; both move with the knobs, without another run.
import { app } from "../../scripts/app.js"
import { draw, HEIGHT } from "./cleanstyle_drawing.mjs"
import { chain, isWired, upModel, watch, widgetOf } from "./pack.mjs"
import { say } from "./words.mjs"

const KNOBS = {
  top_k: "top_k",
  alpha: "alpha",
  gamma: "gamma",
  center: "center",
  beta: "beta",
  relative: "normalize",
  style_negative: "style_negative",
  negative_alpha: "negative_alpha",
  start: "start_percent",
  end: "end_percent",
}
const CHOOSER = 22 // pixels high
const MARGIN = 6
const NOTHING = { steps: null, layers: [] }

app.registerExtension({
  name: "sid.cleanstyle",
  nodeCreated(node) {
    if (node.comfyClass === "CleanStyle") addView(node, () => node)
    if (node.comfyClass === "CleanStyleSpectrum")
      addView(node, () => upModel(node, (other) => other.comfyClass === "CleanStyle").found)
  },
})

/** whose: the node whose knobs are shown; null where it is not seen. */
function addView(node, whose) {
  const box = document.createElement("div")
  box.className = "sid-cleanstyle"
  Object.assign(box.style, { color: "var(--input-text, #ddd)", font: "11px Inter, Arial, sans-serif", overflow: "hidden" })
  const height = HEIGHT + CHOOSER + 2 * MARGIN
  const options = { serialize: false, margin: MARGIN, getMinHeight: () => height, getMaxHeight: () => height }
  const widget = node.addDOMWidget("cleanstyle_view", "sid_view", box, options)
  widget.serialize = false
  node.setSize([Math.max(node.size[0], 300), Math.max(node.size[1], node.computeSize()[1])])

  let run = NOTHING
  let layer = 0
  let drawn
  chain(node, "onConfigure", () => (run = recall(node) ?? run))
  chain(node, "onExecuted", (output) => {
    if (!output?.cleanstyle?.[0]) return
    run = output.cleanstyle[0]
    remember(node, run)
  })

  function look() {
    layer = Math.min(layer, Math.max(0, run.layers.length - 1))
    const knobs = knobsOf(whose(), run, layer)
    const now = JSON.stringify([knobs, layer, run])
    if (now === drawn) return
    drawn = now
    if (!knobs) return box.replaceChildren(say("Connect a CleanStyle node to see its schedule."))
    const choose = (step) => () => ((layer = (layer + step + run.layers.length) % run.layers.length), look())
    box.replaceChildren(draw(knobs, run.steps, run.layers[layer]), ...chooser(layer, run.layers.length, choose))
  }

  watch(node, look)
}

// A node whose result is in ComfyUI's cache is not run again, and so says nothing after the page was loaded anew.
const keyOf = (node) => `sid.cleanstyle ${node.graph?.id} ${node.id}`

function remember(node, run) {
  try {
    sessionStorage.setItem(keyOf(node), JSON.stringify(run))
  } catch {
    // A full storage costs the view after a reload.
  }
}

function recall(node) {
  try {
    return JSON.parse(sessionStorage.getItem(keyOf(node)))
  } catch {
    return null
  }
}

/** Of the node as they are set now, or, where several nodes clean one MODEL, as this layer was cleaned. */
function knobsOf(node, { settings, layers }, layer) {
  if (settings?.length > 1 || !node) return settings?.[layers[layer].settings] ?? null
  const known = settings?.[0] ?? {}
  const valueOf = (knob, name) => (isWired(node, name) && knob in known ? known[knob] : widgetOf(node, name)?.value)
  return Object.fromEntries(Object.entries(KNOBS).map(([knob, name]) => [knob, valueOf(knob, name)]))
}

function chooser(layer, count, choose) {
  if (count < 2) return []
  const row = document.createElement("div")
  Object.assign(row.style, { display: "flex", justifyContent: "center", gap: "8px", height: `${CHOOSER}px` })
  const button = (text, step) => {
    const made = document.createElement("button")
    made.textContent = text
    made.ariaLabel = step > 0 ? say("next layer") : say("layer before")
    Object.assign(made.style, { cursor: "pointer", background: "none", border: "none", color: "inherit" })
    made.onclick = choose(step)
    return made
  }
  const where = document.createElement("span")
  where.textContent = say("layer {at} of {all}", { at: layer + 1, all: count })
  where.style.lineHeight = `${CHOOSER}px`
  row.append(button("◂", -1), where, button("▸", 1))
  return [row]
}
