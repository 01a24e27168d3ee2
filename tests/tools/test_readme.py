#!/usr/bin/env python3
"""The README says what is: its table of variables, its first program, its links. Usage: test_readme.py SOURCE WEIR [--mend]

--mend writes the table that the library makes into the README.
"""
import os
import re
import subprocess
import sys

BEGIN, END = "<!-- begin: weir info --env --markdown -->\n", "<!-- end -->"


def main():
    source, weir = sys.argv[1:3]
    path = os.path.join(source, "README.md")
    with open(path, encoding="utf-8") as file:
        readme = file.read()
    before, rest = readme.split(BEGIN)
    table, after = rest.split(END, 1)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    made = subprocess.run([weir, "info", "--env", "--markdown"], env=clean, text=True, check=True,
                          stdout=subprocess.PIPE).stdout
    if "--mend" in sys.argv:
        with open(path, "w", encoding="utf-8") as file:
            file.write(before + BEGIN + made + END + after)
        return 0
    faults = []
    if table != made:
        faults.append("the table of variables is not what `weir info --env --markdown` makes; run this test with --mend")
    with open(os.path.join(source, "examples/first/first.c"), encoding="utf-8") as file:
        program = file.read().split("\n", 1)[1]
    if f"```c\n{program}```" not in readme:
        faults.append("the first program is not examples/first/first.c")
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        if "://" not in target and not os.path.exists(os.path.join(source, target)):
            faults.append(f"the link to {target} leads nowhere")
    for fault in faults:
        print(f"README.md: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
