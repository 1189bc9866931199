// How a run stands, in a sentence.
import { number } from "./dom.mjs"

/** run: as in run.mjs, or null where the node does not know its name. → [kind, sentence]; kind: for the dot before it. */
export function standing(run) {
  if (!run) return ["idle", "run_name comes over a wire: the run is shown once it trains."]
  const { state, live } = run
  const of = (iteration, total) => `iteration ${number(iteration)} of ${number(total)}`
  if (live?.iteration !== undefined) {
    if (state?.here === "stopping") return ["busy", `Stopping after this iteration: ${of(live.iteration, live.iterations)}`]
    return ["busy", `Training: ${of(live.iteration, live.iterations)}`]
  }
  if (!state) return ["idle", "No run of this name yet"]
  if (state.running) return ["busy", `Training${state.here ? "" : " in another ComfyUI"}: ${of(state.trained, state.iterations)}`]
  if (state.ended_early) return ["done", `Ended at iteration ${number(state.saved)}, as it got no better`]
  if (state.saved >= state.iterations && state.saved) return ["done", `Finished: ${number(state.saved)} iterations`]
  if (!state.saved) return ["stopped", "Nothing is saved yet: queue again to begin anew"]
  const lost = state.trained > state.saved ? ` (it had come to ${number(state.trained)})` : ""
  return ["stopped", `Saved at ${of(state.saved, state.iterations)}${lost}. Queue again to go on`]
}
