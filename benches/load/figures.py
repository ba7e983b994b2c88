#!/usr/bin/env python3
"""Reads the JSON of `fanfare bench` runs and prints figures and verdicts for the scripts beside.

    figures.py FOLDER figures LABEL EXPRESSION ...
    figures.py FOLDER verdict ROW EXPRESSION GOAL UNIT

Each file of the folder is one run; in an expression its name stands for its JSON object.
"""
import json
import pathlib
import sys


class Figures(dict):
    """An object whose keys are attributes too."""

    def __getattr__(self, name):
        return self[name]


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
    found = value(expression)
    met = "met" if found <= float(goal) else f"MISSED by {found / float(goal) - 1:.0%}"
    print(f"verdict: {row}: {found:.3g} {unit}, goal at most {goal}: {met}")


main()
