// What a distillation will take, on SiD Distill before it is queued: as it was when this browser last saw one of the
// same size.
import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { addLines, describedInputs, source, watch, widgetOf } from "./pack.mjs"
import { duration } from "./panel/dom.mjs"
import { say } from "./words.mjs"

const KEPT = "sid.measured" // in the browser's storage: { size: { seconds (of an iteration), memory } }
const MOST = 50 // sizes
const WARM_UP = 2 // iterations, that are slower than the rest
const SIZED_BY = ["mode", "batch_size", "student_rank", "fake_rank", "lora_targets", "micro_batch", "gradient_checkpointing", "more_sizes", "preset"]
const WIRES = ["guider", "latent", "options", "images"]
const WITHOUT = /seed|text|prompt|name_prefix/ // widgets of other nodes that change nothing about it

const running = new Map() // by the node's id, as the server says it

app.registerExtension({
  name: "sid.expected",
  setup() {
    api.addEventListener("progress_text", ({ detail }) => note(detail.nodeId, detail.text))
    api.addEventListener("sid.training", ({ detail }) => detail.text && count(detail))
  },
  nodeCreated(node) {
    if (node.comfyClass !== "SiDDistill") return
    const show = addLines(node, "expected")
    watch(node, () => show(linesOf(node)))
  },
})

function linesOf(node) {
  const lines = []
  const preset = widgetOf(node, "preset")?.value
  const decided = describedInputs(node).preset?.decides?.[preset]
  if (decided) lines.push({ text: say("preset: {values}", { values: Object.entries(decided).map(worded).join(", ") }), kind: "said" })
  const known = stored()[sizeOf(node)]
  if (!known?.seconds)
    return [...lines, { text: say("time and memory: known after the first iterations"), kind: "quiet" }]
  const iterations = widgetOf(node, "iterations").value
  const expected = { time: duration(known.seconds * iterations), iterations }
  lines.push({ text: say("about {time} for {iterations} iterations, as last time at this size", expected), kind: "said" })
  if (known.memory) lines.push({ text: known.memory, kind: "quiet" })
  return lines
}

const worded = ([name, value]) => `${name.replaceAll("_", " ")} ${value}`

/** What decides how long an iteration takes, as one short text: settings, and all that feeds model and size. */
function sizeOf(node) {
  const seen = new Set([node])
  const told = [SIZED_BY.map((name) => widgetOf(node, name)?.value)]
  const queue = WIRES.map((wire) => source(node, (input) => input.name === wire))
  while (queue.length) {
    const next = queue.shift()
    if (!next || seen.has(next)) continue
    seen.add(next)
    const widgets = (next.widgets ?? []).filter(({ name, serialize }) => serialize !== false && !WITHOUT.test(name))
    told.push([next.type, ...widgets.map(({ value }) => (typeof value === "object" ? null : value))])
    queue.push(...(next.inputs ?? []).map((input) => source(next, (other) => other === input)))
  }
  return digest(JSON.stringify(told))
}

function digest(text) {
  let hash = 5381
  for (const letter of text) hash = (hash * 33 + letter.codePointAt(0)) % 2 ** 48
  return hash.toString(36)
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {}
  } catch {
    return {}
  }
}

function store(size, values) {
  const { [size]: before, ...others } = stored()
  const entries = [...Object.entries(others), [size, { ...before, ...values }]].slice(-MOST)
  try {
    localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(entries)))
  } catch {
    // A browser that keeps nothing says so each time.
  }
}

/** The node that runs under this id, in whatever subgraph. */
function nodeOf(id) {
  let graph = app.graph?.rootGraph ?? app.graph
  let node = null
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? null
    graph = node?.subgraph
  }
  return node?.comfyClass === "SiDDistill" ? node : null
}

function note(id, text) {
  const memory = /^memory: .*/.exec(text)?.[0]
  const node = memory && nodeOf(id)
  if (node) store(sizeOf(node), { memory })
}

/** What an iteration takes of late, as the server has measured it. */
function count({ node: id, prompt_id: queued, iteration, iteration_s: seconds }) {
  const node = nodeOf(id)
  if (!node) return
  const begun = running.get(id)
  if (begun?.queued !== queued) running.set(id, { queued, iteration, size: sizeOf(node) })
  else if (iteration - begun.iteration >= WARM_UP) store(begun.size, { seconds })
}
