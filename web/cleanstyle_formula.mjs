// CleanStyle's formulas as sid_core/method/cleanstyle.py has them (arXiv 2602.20721), for what a node shows of them.

/** α_t = α (1 - s(p)), s(p) = 1/(1 + e^{-γ(p - c)}): strong where the picture's content is decided, then gone. */
export function suppression(progress, { alpha, gamma, center }) {
  return alpha / (1 + Math.exp(gamma * (progress - center)))
}

/** g_i = 1 for i < top_k, else β e^{-α σ_i}; relative: by σ_i/σ_1. values: largest first. */
export function purifyGains(values, { top_k, alpha, beta, relative }) {
  const unit = relative ? Math.max(values[0], Number.MIN_VALUE) : 1
  return values.map((value, i) => (i < top_k ? 1 : beta * Math.exp((-alpha * value) / unit)))
}

/** g_i = β e^{-α σ_i} for all i; hard: 0 for i < top_k, else β. */
export function negativeGains(values, { top_k, alpha, beta, relative, hard }) {
  if (!hard) return purifyGains(values, { top_k: 0, alpha, beta, relative })
  return values.map((_, i) => (i < top_k ? 0 : beta))
}

/** The share of energy that gains leave: Σ (g_i σ_i)² / Σ σ_i²; 1 for zero tokens. */
export function kept(values, gains) {
  const largest = Math.max(...values)
  if (!(largest > 0)) return 1
  const energy = (x) => x.reduce((sum, value) => sum + (value / largest) ** 2, 0)
  return energy(values.map((value, i) => value * gains[i])) / energy(values)
}
