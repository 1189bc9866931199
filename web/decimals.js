// Nodes 2.0 of ComfyUI 0.3 shows three decimals where a number's widget does not say how many, so 1e-6 reads "0".
import { app } from "../../scripts/app.js"

app.registerExtension({
  name: "sid.decimals",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SiD")) return
    for (const { options } of node.widgets ?? []) {
      if (options?.precision > 3) options.maxFractionDigits = options.precision
    }
  },
})
