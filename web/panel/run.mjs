// A run as the server tells of it: all at first, and then what is new, no more often than there is something to see.

const ROUTE = "/sid/runs"
const NAME = /^[\p{L}\p{N}_-][\p{L}\p{N}_ -]{0,99}(?<! )$/u // what the node takes; others need not be asked for
const LEAST_MS = 1000 // between two questions
const QUIET_MS = 60_000 // where nothing happens
const FIRST_MS = 5000

/** The runs there are, the latest first: [{run, running, saved, iterations, …}]. */
export async function listRuns(api) {
  const answer = await api.fetchApi(ROUTE)
  return answer.ok ? (await answer.json()).runs : []
}

export class Run {
  /** changed: called whenever there is something new to see. watched: whether anybody looks. */
  constructor(api, name, changed, watched) {
    this.api = api
    this.name = name
    this.changed = changed
    this.watched = watched
    this.state = null // as the server last told; null while it knows of no such run
    this.curves = {}
    this.warnings = []
    this.previews = []
    this.live = null // the latest event, while it trains in this ComfyUI
    this.pause = FIRST_MS
    this.asked = 0
    this.asking = false // one question at a time: two answers would tell of the same news
    this.again = false
    this.timer = null
    this.closed = false
  }

  /** An event of this run. */
  hear(event) {
    this.live = event.ended ? null : { ...this.live, ...event }
    const width = this.state?.width ?? 1
    const due = event.ended || !this.state?.running || event.iteration >= this.state.trained + width
    if (due) this.ask(event.ended ? 0 : LEAST_MS)
    this.changed()
  }

  close() {
    this.closed = true
    clearTimeout(this.timer)
  }

  /** Ask the server, but not sooner than so many ms after the last time. */
  ask(least = 0) {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.refresh(), Math.max(0, this.asked + least - Date.now()))
  }

  async refresh() {
    if (this.closed) return
    if (this.asking) {
      this.again = true
      return
    }
    const isFirst = !this.asked // before the panel is in the page
    this.asked = Date.now()
    let more = false
    if (isFirst || this.watched()) {
      this.asking = true
      try {
        more = await this.#take()
      } catch {
        this.pause = QUIET_MS // the server is away, or starts anew
      }
      this.asking = false
      if (this.closed) return
      this.changed()
    }
    if (more) return this.refresh()
    this.ask(this.again ? LEAST_MS : this.pause)
    this.again = false
  }

  /** → whether there is more at once. */
  async #take() {
    const before = this.state
    const state = NAME.test(this.name) ? await this.#fetch(before ? { cursor: before.cursor } : {}) : null
    if (!state) {
      this.state = null
      this.pause = Math.min(2 * this.pause, QUIET_MS)
      return false
    }
    if (state.whole) {
      this.titles = state.titles
      this.curves = state.curves
      this.warnings = state.warnings
      this.previews = state.previews
    } else {
      for (const [name, points] of Object.entries(state.curves)) {
        const first = points[0][0]
        this.curves[name] = (this.curves[name] ?? []).filter((point) => point[0] < first).concat(points)
      }
      this.warnings.push(...state.warnings)
      this.previews = [...new Set([...this.previews, ...state.previews])].sort((a, b) => a - b)
    }
    const grown = !before || state.trained >= before.trained + state.width || state.running !== before.running
    this.pause = grown ? FIRST_MS : Math.min(2 * this.pause, QUIET_MS)
    this.state = state
    if (!state.running) this.live = null // also where its last event was missed
    return state.more
  }

  async #fetch(more) {
    const answer = await this.api.fetchApi(this.#address(more))
    return answer.ok ? answer.json() : null
  }

  /** The address of a picture: an iteration's, or "teacher". It is another once the run has been started over. */
  picture(which) {
    const cursor = this.state?.cursor.split(".")[0] ?? ""
    return this.api.apiURL(this.#address({ preview: which, cursor }))
  }

  /** Have it end after the iteration it is in. */
  async stop() {
    const body = JSON.stringify({ run: this.name })
    await this.api.fetchApi("/sid/stop", { method: "POST", headers: { "Content-Type": "application/json" }, body })
    this.ask()
  }

  #address(more) {
    return `${ROUTE}?${new URLSearchParams({ run: this.name, ...more })}`
  }
}
