// Elements, and how numbers are written. Text is always set as text: what comes out of files is no HTML.
import { say } from "../words.mjs"

const SVG = "http://www.w3.org/2000/svg"

/** An element with attributes, or listeners where they are functions, and children: elements or texts. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children)
}

/** The same of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children)
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value)
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value)
  }
  element.append(...children)
  return element
}

/** 0.1234 as "0.123", 12345 as "12,345". */
export function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en")
  const size = Math.abs(value)
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(1)
}

/** Seconds as "42 s", "3 min" or "2 h 5 min". */
export function duration(seconds) {
  if (seconds < 90) return say("{count} s", { count: Math.round(seconds) })
  const minutes = Math.round(seconds / 60)
  if (minutes < 90) return say("{count} min", { count: minutes })
  return say("{hours} h {minutes} min", { hours: Math.floor(minutes / 60), minutes: minutes % 60 })
}

/** Bytes as "3.2 GB". */
export function gigabytes(bytes) {
  return `${(bytes / 1e9).toFixed(1)} GB`
}
