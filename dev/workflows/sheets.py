"""The pack's workflows."""

from . import cleanstyle_demo_sheets, cleanstyle_sheets, distil_sheets, sampling_sheets

SHEETS = [
    *sampling_sheets.SHEETS,
    *distil_sheets.SHEETS,
    *cleanstyle_demo_sheets.SHEETS,
    *cleanstyle_sheets.SHEETS,
]
