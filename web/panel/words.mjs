// How a run stands, in a sentence.
import { say } from "../words.mjs"
import { number } from "./dom.mjs"

/** run: as in run.mjs, or null where the node does not know its name. text: what the node says before it trains, or
 * null. → [kind of the dot before it, sentence]. */
export function standing(run, text) {
  if (text && run?.live?.iteration === undefined) return ["busy", text]
  if (!run) return ["idle", say("run_name comes over a wire: the run is shown once it trains.")]
  const { state, live } = run
  if (live?.iteration !== undefined) {
    const far = { done: number(live.iteration), all: number(live.iterations) }
    if (state?.here === "stopping") return ["busy", say("Stopping after this iteration: iteration {done} of {all}", far)]
    return ["busy", say("Training: iteration {done} of {all}", far)]
  }
  if (!state) return ["idle", say("No run of this name yet")]
  const [trained, saved, all] = [state.trained, state.saved, state.iterations].map(number)
  if (state.running) {
    if (state.here) return ["busy", say("Training: iteration {done} of {all}", { done: trained, all })]
    return ["busy", say("Training in another ComfyUI: iteration {done} of {all}", { done: trained, all })]
  }
  if (state.ended_early) return ["done", say("Ended at iteration {saved}, as it got no better", { saved })]
  if (state.saved >= state.iterations && state.saved) return ["done", say("Finished: {saved} iterations", { saved })]
  if (!state.saved) return ["stopped", say("Nothing is saved yet: queue again to begin anew")]
  if (state.trained > state.saved)
    return [
      "stopped",
      say("Saved at iteration {saved} of {all} (it had come to {trained}). Queue again to go on", { saved, all, trained }),
    ]
  return ["stopped", say("Saved at iteration {saved} of {all}. Queue again to go on", { saved, all })]
}
