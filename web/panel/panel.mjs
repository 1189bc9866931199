// The panel: how the run stands, its curves and pictures, and the two things that can be done about it.
import { say } from "../words.mjs"
import { Chart } from "./chart.mjs"
import { duration, gigabytes, h, number } from "./dom.mjs"
import { Pictures } from "./pictures.mjs"
import { listRuns, Run } from "./run.mjs"
import { standing } from "./words.mjs"

const MARGINS = 20 // px, above and below it in the classic editor
const CLOSED = 58
const OPEN = 460
const STYLE = new URL("./panel.css", import.meta.url).href
const ALL_MS = 30_000 // the oldest that the list of runs may be

export class Panel {
  constructor(node, api) {
    this.node = node
    this.api = api
    this.run = null
    this.other = null
    this.range = null // of iterations; null is all
    this.at = null
    this.text = null // of the node, until it trains
    this.charts = new Map()
    this.open = false
    this.height = CLOSED
    this.element = this.#build()
    this.element.style.setProperty("--height", `${CLOSED - MARGINS}px`)
    addStyle()
    this.sizes = new ResizeObserver(() => this.draw())
    this.sizes.observe(this.element)
    this.timer = setInterval(() => this.follow(), 500)
  }

  remove() {
    clearInterval(this.timer)
    this.sizes.disconnect()
    this.run?.close()
    this.other?.close()
  }

  /** A `sid.training` event of any run. */
  hear(event) {
    const ours = this.#name() === null ? this.#isOurs(event.node) : null
    if (ours && event.run !== this.run?.name) this.#show(event.run)
    if (event.run !== this.run?.name) return
    this.text = null // what came before training is over, also where another tab has queued it and hears of its end
    this.run.hear(event)
  }

  /** What the node of that id says, which is how far it is with what comes before training. */
  hearText(id, text) {
    if (!this.#isOurs(id) || this.run?.live?.iteration !== undefined) return // a remark while it trains
    this.text = text.split("\n")[0].trim()
    this.draw()
  }

  forgetText() {
    if (!this.text) return
    this.text = null
    this.draw()
  }

  /** Whether that is this node's id, within whatever subgraph. */
  #isOurs(id) {
    return String(id).split(":").at(-1) === String(this.node.id)
  }

  /** What is typed as run_name; null where it comes over a wire. */
  #name() {
    if (this.node.inputs?.some((input) => input.name === "run_name" && input.link != null)) return null
    return String(this.node.widgets?.find((widget) => widget.name === "run_name")?.value ?? "")
  }

  /** Look which run the node names, as its widgets tell nobody when they change. */
  follow() {
    const seen = this.#isSeen()
    if (seen && !this.wasSeen) this.run?.ask() // another tab or graph was to be seen before
    this.wasSeen = seen
    const name = this.#name()
    if (name !== null && name !== this.run?.name) this.#show(name)
  }

  #show(name) {
    this.run?.close()
    this.range = null
    this.pictures.chosen = null
    this.run = new Run(this.api, name, () => this.draw(), () => this.#isSeen())
    this.run.ask()
    this.draw()
  }

  #isSeen() {
    return this.element.isConnected && !document.hidden
  }

  #build() {
    const button = (text, title, click, more = {}) => h("button", { title, click, ...more }, text)
    this.dot = h("span", { class: "dot" })
    this.said = h("span", { class: "said", role: "status" })
    this.stop = button(
      say("Stop and save"),
      say("End after this iteration: the student comes out, and what was learnt is saved."),
      () => this.run.stop(),
      { class: "stop", hidden: true },
    )
    this.toggle = button("▸", say("Show or hide curves and pictures"), () => this.#fold(!this.open), {
      class: "toggle",
      hidden: true,
    })
    this.bar = h("div", { class: "bar" }, h("div"))
    this.facts = h("span", { class: "facts" })
    this.path = h("input", { class: "path", readonly: true, "aria-label": say("the run's folder"), size: 1 })
    this.pictures = new Pictures()
    this.halves = h("div", { class: "halves", "data-shown": "curves" }, this.#curves(), this.pictures.element)
    const copy = button(
      say("Copy"),
      say("Copy the folder's name, which is in ComfyUI's output folder"),
      () => this.#copy(),
    )
    this.body = h(
      "div",
      { class: "body", hidden: true },
      h("div", { class: "tools" }, h("div", { class: "tabs" }, ...this.#tabs()), this.facts),
      this.halves,
      h("div", { class: "tools foot" }, h("label", {}, "output/", this.path, copy)),
    )
    const head = h("div", { class: "head" }, this.dot, this.said, this.stop, this.toggle)
    const panel = h("div", { class: "sid-panel widget-expands" }, head, this.bar, this.body)
    // What is dragged and typed here is not for the graph beneath.
    for (const kind of ["pointerdown", "mousedown", "dblclick", "keydown"]) {
      panel.addEventListener(kind, (event) => (event.button ?? 0) === 0 && event.stopPropagation())
    }
    return panel
  }

  #curves() {
    const redraw = () => this.draw()
    const amount = { type: "range", min: 0, max: 0.98, step: 0.02, value: 0.8, "aria-label": say("smoothing") }
    this.smoothing = h("input", { ...amount, input: redraw })
    this.whole = h(
      "button",
      { title: say("Show all iterations"), hidden: true, click: () => this.#select(null) },
      say("All"),
    )
    this.compare = h(
      "select",
      { "aria-label": say("compare with"), focus: () => this.#list(), change: () => this.#compare() },
      h("option", { value: "" }, say("no other run")),
    )
    this.warnings = h("ul", { class: "warnings" })
    this.where = h("div", { class: "where" })
    this.grid = h("div", { class: "grid" }, this.where)
    const tools = [h("label", {}, say("smooth"), this.smoothing), this.whole, h("label", {}, say("compare with"), this.compare)]
    return h("section", { class: "curves" }, h("div", { class: "tools" }, ...tools), this.warnings, this.grid)
  }

  #tabs() {
    const tab = (shown, title) => {
      const choose = () => {
        this.halves.dataset.shown = shown
        this.draw()
      }
      return h("button", { "data-tab": shown, click: choose }, title)
    }
    return [tab("curves", say("Curves")), tab("pictures", say("Pictures"))]
  }

  /** Before the browser shows its next frame, and so never while nobody can see it. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined
      this.#draw()
    })
  }

  #draw() {
    const { run } = this
    const [kind, sentence] = standing(run, this.text)
    this.dot.dataset.kind = kind
    this.said.textContent = this.said.title = sentence
    this.stop.hidden = !(run?.live && run.state?.here !== "stopping") && run?.state?.here !== "training"
    const seen = run?.state && Object.keys(run.curves).length > 0
    if (Boolean(seen) !== Boolean(this.seen)) this.#fold((this.seen = Boolean(seen)))
    const live = run?.live
    const done = live?.iteration ?? run?.state?.trained ?? 0
    const total = live?.iterations ?? run?.state?.iterations ?? 0
    this.bar.firstChild.style.width = total ? `${Math.min(100, (100 * done) / total)}%` : "0"
    this.toggle.hidden = !seen
    if (!seen || !this.open) return
    this.#tell()
    this.#plot()
    this.pictures.draw(run, this.other)
    this.path.value = run.state.folder
  }

  #tell() {
    const { rate, left_s: left, memory } = this.run.live ?? {}
    const facts = []
    if (rate !== undefined) facts.push(say("{rate} images/s", { rate: number(rate) }), say("{time} left", { time: duration(left) }))
    if (memory) {
      const of = { used: gigabytes(memory.used), total: gigabytes(memory.total) }
      facts.push(memory.device === "cpu" ? say("{used} of {total} RAM", of) : say("{used} of {total} GPU memory", of))
    }
    this.facts.textContent = this.facts.title = facts.join(" · ") // which a narrow node cuts
    if (this.told === this.run.state.cursor) return
    this.told = this.run.state.cursor
    const line = ([iteration, message]) => h("li", {}, h("b", {}, say("iteration {at}", { at: number(iteration) }), " "), message)
    this.warnings.replaceChildren(...this.run.warnings.map(line))
  }

  #plot() {
    const { run, other } = this
    const range = this.range ?? [0, Math.max(run.state.trained, other?.state?.trained ?? 0, 1)]
    this.whole.hidden = !this.range
    const [from, to] = range.map(number)
    const all = say("iterations {from} to {to}; drag over a curve for a part", { from, to })
    this.where.textContent = this.at === null ? all : say("iteration {at}", { at: number(this.at) })
    for (const [order, [name, title]] of Object.entries(run.titles).entries()) {
      const points = run.curves[name]
      if (!points) {
        this.charts.get(name)?.element.remove()
        this.charts.delete(name)
        continue
      }
      if (!this.charts.has(name)) {
        const chart = new Chart(say(title), (chosen) => this.#select(chosen), (at) => this.#point(at))
        chart.element.style.order = order
        this.charts.set(name, chart)
        this.grid.append(chart.element)
      }
      this.charts.get(name).draw({
        points,
        width: run.state.width,
        other: other?.curves[name],
        otherWidth: other?.state?.width,
        range,
        smoothing: Number(this.smoothing.value),
        warnings: run.warnings,
        at: this.at,
      })
    }
  }

  #select(range) {
    this.range = range
    this.draw()
  }

  #point(at) {
    this.at = at
    this.draw()
  }

  async #list() {
    if (Date.now() - (this.listed ?? 0) < ALL_MS) return
    this.listed = Date.now()
    const names = (await listRuns(this.api)).map(({ run }) => run).filter((name) => name !== this.run.name)
    const chosen = this.compare.value
    const option = (name) => h("option", { value: name }, name)
    this.compare.replaceChildren(h("option", { value: "" }, say("no other run")), ...names.map(option))
    this.compare.value = names.includes(chosen) ? chosen : ""
  }

  #compare() {
    this.other?.close()
    const name = this.compare.value
    this.other = name ? new Run(this.api, name, () => this.draw(), () => this.#isSeen()) : null
    this.other?.ask()
    this.draw()
  }

  async #copy() {
    this.path.select()
    // Only pages of this machine or by https have a clipboard.
    if (navigator.clipboard) await navigator.clipboard.writeText(this.path.value)
    else document.execCommand("copy")
  }

  /** Open or close what is below the head; the node grows where it has to, and shrinks by as much. */
  #fold(open) {
    const before = this.height
    this.open = open
    this.height = open ? OPEN : CLOSED
    this.element.style.setProperty("--height", `${this.height - MARGINS}px`)
    this.toggle.textContent = open ? "▾" : "▸"
    this.body.hidden = !open
    const { node } = this
    const room = open ? 0 : before - this.height // what is open uses the room that there is
    node.setSize([node.size[0], Math.max(node.computeSize()[1], node.size[1] - room)])
    node.setDirtyCanvas?.(true, true)
    if (open) this.#list()
    this.draw()
  }
}

function addStyle() {
  if (document.querySelector(`link[href="${STYLE}"]`)) return
  document.head.append(h("link", { rel: "stylesheet", href: STYLE }))
}
