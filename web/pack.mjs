// What the pack's scripts share: a node's inputs as the server describes them, and the nodes that feed it.

/** The nodes of this pack. */
export function isOurs(node) {
  return /^(SiD|CleanStyle)/.test(node.comfyClass ?? "")
}

/** What /object_info says of each input, by its name and in the order that saved graphs have them in. */
export function describedInputs(node) {
  const { required, optional } = node.constructor.nodeData?.input ?? {}
  return Object.fromEntries(Object.entries({ ...required, ...optional }).map(([name, spec]) => [name, spec[1] ?? {}]))
}

export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name)
}

/** Call `after` with the same arguments whenever the method is called. */
export function chain(object, method, after) {
  const before = object[method]
  object[method] = function (...args) {
    const result = before?.apply(this, args)
    after.apply(this, args)
    return result
  }
}

/** Let Nodes 2.0 read the widgets' options again, which it does when their list changes. */
export function redraw(node) {
  node.widgets.push(node.widgets.pop())
  node.setDirtyCanvas?.(true, true)
}

const OUTSIDE = -10 // where links come from that enter a subgraph

/** The node whose output comes in at the input, out of a subgraph or into one too; null where none is seen. */
export function source(node, matches) {
  return origin(node.graph, node.inputs?.find(matches)?.link)
}

function origin(graph, id) {
  const link = id == null ? null : graph?.getLink(id)
  if (!link) return null
  if (Number(link.origin_id) === OUTSIDE) {
    const around = holders(graph)
    return around.length === 1 ? origin(around[0].graph, around[0].inputs[link.origin_slot]?.link) : null
  }
  const node = graph.getNodeById(link.origin_id)
  return node?.subgraph ? origin(node.subgraph, node.subgraph.outputs[link.origin_slot]?.linkIds[0]) : (node ?? null)
}

/** The nodes, in whatever graph, that this subgraph is inside of: more than one where it is used more than once. */
function holders(subgraph) {
  const { rootGraph } = subgraph
  const graphs = [rootGraph, ...rootGraph.subgraphs.values()]
  return graphs.flatMap((graph) => graph.nodes.filter((node) => node.subgraph === subgraph))
}

const BYPASSED = 4
const LONGEST_CHAIN = 100

/** The nearest node up the MODEL wire that `isIt`. → { found, complete }: complete where all of the wire was seen. */
export function upModel(node, isIt) {
  const isModel = (input) => input.type === "MODEL" || (input.type === "*" && input.link != null)
  let last = node
  for (let i = 0; i < LONGEST_CHAIN; i++) {
    const next = source(last, isModel)
    if (!next) return { found: null, complete: i > 0 && !last.inputs?.some(isModel) }
    if (next.mode !== BYPASSED && isIt(next)) return { found: next, complete: true }
    last = next
  }
  return { found: null, complete: false }
}

/** Whether an input comes over a wire, so that its widget says nothing. */
export const isWired = (node, name) => node.inputs?.some((input) => input.name === name && input.link != null)

const looks = new Map()

/** Call `look` from now on until the node is removed, now and then: what it shows depends on other nodes as well. */
export function watch(node, look) {
  looks.set(node, [...(looks.get(node) ?? []), look])
  chain(node, "onRemoved", () => looks.delete(node))
}

setInterval(() => {
  if (document.hidden) return
  for (const [node, all] of looks) if (node.graph) for (const look of all) look()
}, 250)

/** Lines of text below the widgets. → show([{ text, kind }, …]), kind: "said", "quiet" or "warning". */
export function addLines(node, name) {
  const box = document.createElement("div")
  box.className = "sid-lines"
  box.dataset.sid = name
  Object.assign(box.style, { font: `12px/${ROW}px Inter, Arial, sans-serif`, padding: "0 4px", overflow: "hidden" })
  let height = heightOf(1)
  const widget = node.addDOMWidget(name, "sid_lines", box, {
    serialize: false,
    margin: MARGIN,
    getMinHeight: () => height,
    getMaxHeight: () => height,
  })
  widget.serialize = false
  // As high as this and no higher: what has a layout size shares the node's free space with the panel in Nodes 2.0.
  widget.computeLayoutSize = undefined
  widget.computeSize = () => [0, height - GAP]
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
  let shown
  return (lines) => {
    const now = JSON.stringify([lines, node.size[0]])
    if (now === shown) return
    shown = now
    box.replaceChildren(
      ...lines.map(({ text, kind }) => {
        const line = document.createElement("div")
        line.textContent = text
        line.dataset.kind = kind
        line.style.color = COLOURS[kind]
        return line
      }),
    )
    // A node that was saved with such lines has room for them already.
    const tight = Math.abs(node.size[1] - node.computeSize()[1]) < 1
    height = heightOf(rows(lines, node.size[0]))
    const needed = node.computeSize()[1]
    node.setSize([node.size[0], tight ? needed : Math.max(needed, node.size[1])])
    node.setDirtyCanvas?.(true, true)
  }
}

const COLOURS = {
  said: "var(--input-text, #ddd)",
  quiet: "var(--descrip-text, #999)",
  warning: "#e5a13a",
}
const MARGIN = 6
const ROW = 16
const GAP = 4 // pixels between widgets
const heightOf = (rows) => ROW * rows + 2 * MARGIN
const LETTER = 6.8 // pixels, of the lines' font, with room to spare

function rows(lines, width) {
  const fitting = Math.max(20, Math.floor((width - 40) / LETTER))
  return lines.reduce((sum, { text }) => sum + Math.ceil(Math.max(1, text.length) / fitting), 0)
}
