#!/usr/bin/env python3
"""Reads the JSON of `fanfare bench` runs and prints figures and verdicts for the shell scripts.

    figures.py FOLDER figures LABEL EXPRESSION ...
    figures.py FOLDER verdict ROW EXPRESSION GOAL UNIT
    figures.py FOLDER at_least ROW EXPRESSION GOAL UNIT

The goal of `verdict` is an upper bound; the goal of `at_least` is a lower bound.

Each file of the folder contains the JSON of one run. In an expression, the name of a file stands
for the JSON object in the file.
"""
import json
import pathlib
import sys


class Figures(dict):
    """A JSON object whose keys are attributes."""

    def __getattr__(self, name):
        return self[name]


def shown(number):
    """Formats a number with three significant digits, without an exponent."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def main():
    folder, verb, *rest = sys.argv[1:]
    runs = {
        path.name: json.loads(path.read_text(), object_hook=Figures)
        for path in pathlib.Path(folder).iterdir()
    }

    def value(expression):
        return eval(expression, {"max": max, "min": min, "sum": sum}, runs)

    if verb == "figures":
        for label, expression in zip(rest[::2], rest[1::2]):
            found = value(expression)
            print(f"{label}: {found:,.2f}" if isinstance(found, float) else f"{label}: {found}")
        return
    row, expression, goal, unit = rest
    found, goal_value = value(expression), float(goal)
    is_met = found >= goal_value if verb == "at_least" else found <= goal_value
    if is_met:
        met = "met"
    else:
        met = f"MISSED by {abs(found / goal_value - 1):.0%}" if goal_value else "MISSED"
    side = "at least" if verb == "at_least" else "at most"
    print(f"verdict: {row}: {shown(found)} {unit}, goal {side} {goal}: {met}")


main()
