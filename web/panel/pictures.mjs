// The previews of a run over time: the teacher's pictures, below them the student's at the iteration of a slider.
import { say } from "../words.mjs"
import { h, number } from "./dom.mjs"

export class Pictures {
  constructor() {
    this.slider = h("input", { type: "range", min: 0, "aria-label": say("preview"), input: () => this.#choose() })
    this.label = h("b")
    this.teacher = h("img", { alt: say("the teacher's pictures of the same prompts") })
    this.student = h("img")
    this.otherLabel = h("span")
    this.other = h("img")
    this.none = h("p", { class: "none" }, say("Pictures appear here after preview_every iterations, with a vae connected."))
    this.rows = h("div", {}, this.teacher, h("div", { class: "when" }, this.label, this.slider), this.student)
    this.compared = h("div", {}, this.otherLabel, this.other)
    this.element = h("section", { class: "pictures" }, this.none, this.rows, this.compared)
    this.chosen = null // an iteration; null is the latest
  }

  /** other: the run that is compared with, or null. */
  draw(run, other) {
    this.run = run
    this.compare = other
    const { previews } = run
    this.none.hidden = previews.length > 0
    this.rows.hidden = !previews.length
    this.slider.max = previews.length - 1
    const at = this.chosen === null ? -1 : previews.indexOf(this.chosen)
    this.slider.value = at < 0 ? previews.length - 1 : at
    const shown = previews[this.slider.value]
    this.label.textContent = say("iteration {at}", { at: number(shown ?? 0) })
    this.student.alt = say("the student's pictures at iteration {at}", { at: shown })
    show(this.teacher, run.state?.teacher && previews.length ? run.picture("teacher") : null)
    show(this.student, shown === undefined ? null : run.picture(shown))
    const theirs = other?.previews.findLast((iteration) => iteration <= shown) ?? other?.previews[0]
    this.compared.hidden = theirs === undefined
    this.otherLabel.textContent = `${other?.name}, ${say("iteration {at}", { at: number(theirs ?? 0) })}`
    this.other.alt = this.otherLabel.textContent
    show(this.other, theirs === undefined ? null : other.picture(theirs))
  }

  #choose() {
    const at = Number(this.slider.value)
    this.chosen = at === this.run.previews.length - 1 ? null : this.run.previews[at]
    this.draw(this.run, this.compare)
  }
}

function show(image, address) {
  image.hidden = !address
  if (address && image.getAttribute("src") !== address) image.src = address
}
