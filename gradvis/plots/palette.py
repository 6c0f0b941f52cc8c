"""Colours that pictures on paper and pages share."""

GROUND = "viridis"
# Told apart by the colour-blind too (Okabe and Ito 2008, "Color Universal Design").
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKS = {"centre": "white", "minimum": "#ff8c1a", "checkpoint": "white"}
