// CleanStyle's schedule and singular values as one small SVG.
import { kept, negativeGains, purifyGains, suppression } from "./cleanstyle_formula.mjs"
import { say } from "./words.mjs"

const WIDTH = 300
const RUN = { left: 34, right: 292, top: 22, bottom: 76 }
const BARS = { left: 34, right: 292, top: 118, bottom: 186 }
const LEGEND = 202
export const HEIGHT = 208
const BEFORE = "#76808c"
const AFTER = "#4f9be8"
const NEGATIVE = "#e88a45"
const FAINT = "#8885"
const FINENESS = 120 // points of the curve

/**
 * knobs: top_k, alpha, gamma, center, beta, relative, style_negative ("off", "soft", "hard"), negative_alpha, start, end.
 * steps: the run's steps as progress, and layer: { name, values }; null where they are not known yet.
 */
export function draw(knobs, steps, layer) {
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: "100%", height: HEIGHT })
  drawRun(svg, knobs, steps)
  drawBars(svg, knobs, steps, layer)
  return svg
}

/** α_t, which is none where CleanStyle does not act. */
export function alphaAt(progress, knobs) {
  return progress >= knobs.start && progress <= knobs.end ? suppression(progress, knobs) : 0
}

/** Where the run's α_t is largest: at the first step that CleanStyle acts at. */
export function strongest(knobs, steps) {
  return Math.max(...(steps ?? [knobs.start]).map((progress) => alphaAt(progress, knobs)))
}

function drawRun(svg, knobs, steps) {
  const { left, right, top, bottom } = RUN
  const highest = knobs.alpha || 1
  const x = (progress) => left + (right - left) * progress
  const y = (alpha) => bottom - ((bottom - top) * alpha) / highest
  text(svg, left, 12, say("α over the run: how strongly content is suppressed"))
  for (const share of [0, 1]) {
    line(svg, left, y(share * highest), right, y(share * highest), FAINT)
    text(svg, left - 5, y(share * highest) + 3, short(share * highest), "end")
  }
  text(svg, left, bottom + 13, say("noise"))
  text(svg, right, bottom + 13, say("image"), "end")
  const curve = Array.from({ length: FINENESS + 1 }, (_, i) => i / FINENESS)
  const points = curve.map((p) => `${x(p).toFixed(1)},${y(alphaAt(p, knobs)).toFixed(1)}`).join(" ")
  svg.append(element("polyline", { points, fill: "none", stroke: AFTER, "stroke-width": 2, "data-sid": "alpha" }))
  for (const p of steps ?? []) {
    svg.append(element("circle", { cx: x(p), cy: y(alphaAt(p, knobs)), r: 3, fill: AFTER, "data-sid": "step" }))
  }
}

function drawBars(svg, knobs, steps, layer) {
  const { left, right, top, bottom } = BARS
  if (!layer) {
    text(svg, left, top, say("Singular values, before and after: once it has run."))
    return
  }
  const alpha = strongest(knobs, steps)
  const { values } = layer
  const gains = purifyGains(values, { ...knobs, alpha })
  const negative =
    knobs.style_negative === "off"
      ? null
      : negativeGains(values, { ...knobs, alpha: knobs.negative_alpha, hard: knobs.style_negative === "hard" })
  const scaled = [values, values.map((value, i) => value * gains[i]), values.map((value, i) => value * (negative?.[i] ?? 0))]
  const highest = Math.max(...scaled.flat()) || 1
  const wide = (right - left) / values.length
  const height = (value) => ((bottom - top) * value) / highest
  const share = say("{share} % of energy left", { share: Math.round(100 * kept(values, gains)) })
  text(svg, left, top - 8, `${layer.name}: ${share}`).dataset.sid = "kept"
  text(svg, left - 5, top + 6, short(highest), "end")
  text(svg, left - 5, bottom + 3, "0", "end")
  const bar = (i, value, fill, kind) => {
    const size = { x: left + wide * i, y: bottom - height(value), width: Math.max(0.5, wide * 0.8), height: height(value) }
    svg.append(element("rect", { ...size, fill, "data-sid": kind }))
  }
  values.forEach((value, i) => bar(i, value, BEFORE, "before"))
  scaled[1].forEach((value, i) => bar(i, value, AFTER, "after"))
  if (negative) {
    scaled[2].forEach((value, i) => {
      const at = bottom - height(value)
      line(svg, left + wide * i, at, left + wide * (i + 0.8), at, NEGATIVE, 1.5)
    })
  }
  line(svg, left, bottom, right, bottom, FAINT)
  const legend = [[say("left"), AFTER, 0], [say("taken out"), BEFORE, 40], [say("style-negative"), NEGATIVE, 104]]
  for (const [said, fill, x] of negative ? legend : legend.slice(0, 2)) {
    svg.append(element("rect", { x: left + x, y: LEGEND - 7, width: 8, height: 8, fill }))
    text(svg, left + x + 12, LEGEND, said)
  }
}

const short = (value) => String(Number(value.toPrecision(2)))

function element(kind, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  return made
}

function text(svg, x, y, content, anchor = "start") {
  const made = element("text", { x, y, "text-anchor": anchor, fill: "currentColor", "font-size": 10 })
  made.textContent = content
  svg.append(made)
  return made
}

function line(svg, x1, y1, x2, y2, stroke, width = 1) {
  svg.append(element("line", { x1, y1, x2, y2, stroke, "stroke-width": width }))
}
