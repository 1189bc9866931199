// How a run stands, in a sentence.
import { number } from "./dom.mjs"

/** run: as in run.mjs, or null where the node does not know its name. → [kind of the dot before it, sentence]. */
export function standing(run) {
  if (!run) return ["idle", "run_name comes over a wire: the run is shown once it trains."]
  const { state, live } = run
  const of = (iteration, total) => `iteration ${number(iteration)} of ${number(total)}`
  if (live?.iteration !== undefined) {
    const doing = state?.here === "stopping" ? "Stopping after this iteration" : "Training"
    return ["busy", `${doing}: ${of(live.iteration, live.iterations)}`]
  }
  if (!state) return ["idle", "No run of this name yet"]
  if (state.running) {
    const where = state.here ? "" : " in another ComfyUI"
    return ["busy", `Training${where}: ${of(state.trained, state.iterations)}`]
  }
  if (state.ended_early) return ["done", `Ended at iteration ${number(state.saved)}, as it got no better`]
  if (state.saved >= state.iterations && state.saved) return ["done", `Finished: ${number(state.saved)} iterations`]
  if (!state.saved) return ["stopped", "Nothing is saved yet: queue again to begin anew"]
  const lost = state.trained > state.saved ? ` (it had come to ${number(state.trained)})` : ""
  return ["stopped", `Saved at ${of(state.saved, state.iterations)}${lost}. Queue again to go on`]
}
