// One curve over the iterations: faint as it is, and strong as it is smoothed.
import { say } from "../words.mjs"
import { h, number, svg } from "./dom.mjs"

const HEIGHT = 64
const TOP = 6
const BOTTOM = 6

export class Chart {
  /** title: "what: how to read it". select: told of a range of iterations that was dragged over, null for all. point:
   * told of the iteration under the pointer, null for none. */
  constructor(title, select, point) {
    const [name, hint = ""] = title.split(/[:：]\s*(.*)/s)
    this.value = h("b")
    this.plot = svg("svg", { height: HEIGHT, role: "img", "aria-label": title })
    const caption = h("figcaption", { title }, h("span", {}, name), h("i", {}, hint), this.value)
    this.element = h("figure", {}, caption, this.plot)
    this.domain = [0, 1]
    this.#listen(select, point)
  }

  /** points: [[first iteration, mean, least, greatest], …], each of `width` iterations. other: of the run that is
   * compared with, or undefined. range: of iterations. at: the iteration that is pointed to, or null. */
  draw({ points, width, other, otherWidth, range, smoothing, warnings, at }) {
    const size = this.plot.clientWidth
    if (!size) return
    const { drag } = this
    // While it trains the panel is drawn twice a second, and most curves get a point a minute.
    const shown = [points, other, smoothing, warnings.length, at, size, ...range, ...(drag ?? [])]
    if (shown.length === this.shown?.length && shown.every((value, i) => value === this.shown[i])) return
    this.shown = shown
    this.domain = range
    const [first, last] = range
    const x = (iteration) => ((iteration - first) / Math.max(last - first, 1)) * size
    const own = smoothed(points, width, smoothing)
    const others = other ? smoothed(other, otherWidth, smoothing) : []
    const [low, high] = scale([...within(own, range), ...within(others, range)])
    const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM)
    const line = (series, key) =>
      series.map((p, i) => `${i ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p[key]).toFixed(1)}`).join("")
    const band = width > 1 ? area(own, x, y) : ""
    const parts = [
      svg("line", { class: "rule", x1: 0, x2: size, y1: TOP, y2: TOP }),
      svg("line", { class: "rule", x1: 0, x2: size, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
      svg("path", { class: "band", d: band }),
      svg("path", { class: "raw", d: line(own, "mean") }),
      svg("path", { class: "other", d: line(others, "smooth") }),
      svg("path", { class: "smooth", d: line(own, "smooth") }),
      svg("text", { x: size - 2, y: TOP + 9, "text-anchor": "end" }, number(high)),
      svg("text", { x: size - 2, y: HEIGHT - BOTTOM - 3, "text-anchor": "end" }, number(low)),
    ]
    if (own.length === 1) parts.push(svg("circle", { class: "dot", cx: x(own[0].x), cy: y(own[0].smooth), r: 2.5 }))
    for (const [iteration, message] of warnings) {
      if (iteration < first || iteration > last) continue
      const mark = { class: "warning", x1: x(iteration), x2: x(iteration), y1: 0, y2: HEIGHT }
      parts.push(svg("line", mark, svg("title", {}, `${say("iteration {at}", { at: number(iteration) })}: ${message}`)))
    }
    if (at !== null) parts.push(svg("line", { class: "pointed", x1: x(at), x2: x(at), y1: 0, y2: HEIGHT }))
    if (drag) parts.push(svg("rect", { class: "drag", y: 0, height: HEIGHT, ...this.#dragged(size) }))
    this.plot.setAttribute("viewBox", `0 0 ${size} ${HEIGHT}`)
    this.plot.replaceChildren(...parts)
    const told = at === null ? own.at(-1)?.smooth : nearest(own, at)?.mean
    this.value.textContent = told === undefined ? "" : number(told)
  }

  #listen(select, point) {
    const share = (event) => {
      const box = this.plot.getBoundingClientRect() // the classic editor scales the panel with the graph
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width))
    }
    const iteration = (at) => Math.round(this.domain[0] + at * (this.domain[1] - this.domain[0]))
    this.plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return
      this.plot.setPointerCapture(event.pointerId)
      this.drag = [share(event), share(event)]
    })
    this.plot.addEventListener("pointermove", (event) => {
      if (this.drag) this.drag[1] = share(event)
      point(iteration(share(event)))
    })
    this.plot.addEventListener("pointerleave", () => point(null))
    this.plot.addEventListener("pointercancel", () => (this.drag = null))
    this.plot.addEventListener("pointerup", () => {
      const [from, to] = (this.drag ?? [0, 0]).toSorted((a, b) => a - b)
      this.drag = null
      if (iteration(to) - iteration(from) >= 2) select([iteration(from), iteration(to)])
    })
    this.plot.addEventListener("dblclick", () => select(null))
  }

  #dragged(size) {
    const [from, to] = this.drag.toSorted((a, b) => a - b)
    return { x: from * size, width: (to - from) * size }
  }
}

/** Where each point is and what it is on average of those before it, which count the less the further they are away. */
function smoothed(points, width, smoothing) {
  let sum = 0
  let weight = 0
  return points.map(([first, mean, low, high]) => {
    sum = smoothing * sum + (1 - smoothing) * mean
    weight = smoothing * weight + (1 - smoothing)
    return { x: first + (width - 1) / 2, mean, low, high, smooth: sum / weight }
  })
}

function within(series, [first, last]) {
  return series.filter((point) => point.x >= first && point.x <= last)
}

/** From the least to the greatest that is to be seen, without the few that would flatten all the rest. */
function scale(series) {
  if (!series.length) return [0, 1]
  const means = series.map((point) => point.mean).sort((a, b) => a - b)
  const smooth = series.map((point) => point.smooth)
  const at = (share) => means[Math.round(share * (means.length - 1))]
  const low = Math.min(at(0.02), ...smooth)
  const high = Math.max(at(0.98), ...smooth)
  const spare = (high - low || Math.abs(high) || 1) * 0.05
  return [low - spare, high + spare]
}

function area(series, x, y) {
  if (series.length < 2) return ""
  const edge = (points, key) => points.map((p) => `${x(p.x).toFixed(1)} ${y(p[key]).toFixed(1)}`).join("L")
  return `M${edge(series, "high")}L${edge([...series].reverse(), "low")}Z`
}

function nearest(series, at) {
  const away = (point) => Math.abs(point.x - at)
  return series.reduce((best, point) => (best && away(best) <= away(point) ? best : point), undefined)
}
