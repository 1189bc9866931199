// What the connected student says of how to sample it, on SiD Scheduler and SiD Generate before anything is queued, and
// what contradicts it.
import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { addLines, isWired, source, upModel, watch, widgetOf } from "./pack.mjs"
import { say } from "./words.mjs"

const WHO = { SiDLoadStudent: ofFile, SiDDistill: ofDistillation, SiDDemoModel: ofDemo }
const FOLDERS = ["diffusion_models", "loras"] // in the order of SiD Load Student

app.registerExtension({
  name: "sid.student",
  nodeCreated(node) {
    if (node.comfyClass !== "SiDScheduler" && node.comfyClass !== "SiDGenerate") return
    const show = addLines(node, "student_says")
    watch(node, () => show(linesOf(node)))
  },
})

function linesOf(node) {
  if (widgetOf(node, "own_times")?.value?.trim()) return [{ text: say("runs at own_times"), kind: "quiet" }]
  const { found, complete } = upModel(node, (other) => other.type in WHO)
  const student = found && WHO[found.type](found)
  if (student?.steps) return [{ text: inWords(student), kind: "said" }, ...contradictions(node, student)]
  if (student?.unknown) return [{ text: student.unknown, kind: "quiet" }]
  if (student?.trouble) return [{ text: `⚠ ${student.trouble}`, kind: "warning" }]
  if (!complete) return [{ text: say("no student is seen here yet"), kind: "quiet" }]
  if (widgetOf(node, "steps")?.value === 0 && !isWired(node, "steps"))
    return [{ text: `⚠ ${say("Set steps, or connect a student: this model is none.")}`, kind: "warning" }]
  return [{ text: say("this model is no student"), kind: "quiet" }]
}

function inWords({ steps, t_init, noise_mode }) {
  const count = steps > 1 ? say("student: {steps} steps", { steps }) : say("student: 1 step")
  const from = t_init ? say(" from t_init {t_init}", { t_init }) : ""
  const noise = noise_mode && noise_mode !== "fresh" ? say(", noise {noise_mode}", { noise_mode }) : ""
  return `${count}${from}${noise}${say(", CFG 1")}`
}

function* contradicted(node, student) {
  for (const name of ["steps", "t_init"]) {
    const value = widgetOf(node, name)?.value
    if (student[name] && value && value !== student[name] && !isWired(node, name))
      yield say("Set {name} to 0 or {own}: it is {value}.", { name, own: student[name], value })
  }
  for (const cfg of guidances(node)) if (cfg !== 1) yield say("Set CFG to 1 on the sampler: it is {cfg}.", { cfg })
}

const contradictions = (node, student) =>
  [...contradicted(node, student)].map((text) => ({ text: `⚠ ${text}`, kind: "warning" }))

/** The CFG of each sampler that takes these sigmas, on it or on its guider. */
function guidances(node) {
  const sigmas = (node.outputs ?? []).flatMap((output, slot) =>
    output.type === "SIGMAS" ? (node.getOutputNodes(slot) ?? []) : [],
  )
  return sigmas
    .flatMap((sampler) => [sampler, source(sampler, (input) => input.type === "GUIDER")])
    .filter((other) => other && !isWired(other, "cfg"))
    .map((other) => widgetOf(other, "cfg")?.value)
    .filter((value) => typeof value === "number")
}

function ofDistillation(node) {
  if (isWired(node, "steps") || isWired(node, "t_init"))
    return { unknown: say("the student's steps are known when it runs") }
  return { steps: widgetOf(node, "steps")?.value, t_init: widgetOf(node, "t_init")?.value || null }
}

function ofDemo(node) {
  if (isWired(node, "weights")) return { unknown: say("which student is known when it runs") }
  const steps = /student, (\d+) step/.exec(widgetOf(node, "weights")?.value)
  return steps ? { steps: Number(steps[1]) } : null
}

const files = new Map()

function ofFile(node) {
  const name = widgetOf(node, "student")?.value
  if (!name || isWired(node, "student")) return { unknown: say("which student is known when it runs") }
  if (!files.has(name)) {
    files.set(name, { unknown: say("reading the student's file …") })
    read(name).then((said) => {
      files.set(name, said)
      // A file that is not there, or is written again, may be another one later.
      setTimeout(() => files.delete(name), said.steps ? 60_000 : 5_000)
    })
  }
  return files.get(name)
}

async function read(name) {
  try {
    for (const folder of FOLDERS) {
      const answer = await api.fetchApi(`/view_metadata/${folder}?filename=${encodeURIComponent(name)}`)
      if (answer.ok) return asStudent(await answer.json())
    }
  } catch {
    // A server that is not reached is no fault of the file.
  }
  return { unknown: say("the student's steps are known when it runs") }
}

function asStudent(metadata) {
  if (!Object.keys(metadata).some((key) => key.startsWith("sid."))) {
    return { unknown: say("a file of others: whether it is a student, and its steps, are known when it runs") }
  }
  try {
    const [steps, t_init, noise_mode] = ["steps", "t_init", "noise_mode"].map((key) => JSON.parse(metadata[`sid.${key}`]))
    if (Number.isInteger(steps) && steps > 0 && t_init > 0) return { steps, t_init, noise_mode: String(noise_mode) }
  } catch {
    // Said below.
  }
  return { trouble: say("Save the student anew: its file does not say how it is to be run.") }
}
