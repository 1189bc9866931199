"""What all workflows of the demo model have in common."""

SIDE, SHOWN = 64, 256  # pixels: as drawn, and enlarged to be looked at
PICTURES = 8
STYLES = ("shaded", "retro", "flat", "modern", "inked", "glossy", "woodcut", "simple", "cartoon")
*_FIRST, _LAST = (f"`{style}`" for style in STYLES)
STYLES_LISTED = f"{', '.join(_FIRST)} and {_LAST}"
