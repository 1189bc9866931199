// What the pack's scripts say, in the editor's language.
import { app } from "../../scripts/app.js"
import ja from "./words/ja.mjs"
import zh from "./words/zh.mjs"

const WORDS = { ja, zh }

/** A text by its English, with values in the places of their {names}. One that has no translation stays as it is. */
export function say(english, values = {}) {
  const language = app.extensionManager?.setting?.get("Comfy.Locale")
  const text = WORDS[language]?.[english] ?? english
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name])
}
