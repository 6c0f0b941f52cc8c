"""Colours that pictures on paper and pages share."""

GROUND = "viridis"
# Told apart by the colour-blind too (Okabe and Ito 2008, "Color Universal Design").
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKS = {
    "centre": "white",
    "minimum": "#ff8c1a",
    "checkpoint": "white",
    "start": "white",
    "end": "black",
    "drop": "white",
}
# Of a path: from black over red to orange, which a map of blues and greens does not have, and lighter all the way.
STEPS, STEPS_TO = "inferno", 0.78
