#!/usr/bin/env python3
"""Checks what the compiler does not: which way includes go, what the library may call, how long things are.

usage: tidy.py SOURCE-FOLDER [--cc COMPILER] [--cxx COMPILER]

Prints one complaint a line, "file:line: what, and the rule". With compilers the public headers are also compiled alone.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 1000
HEADER_COMMENT_MIN = 0.40

LIBRARY = ("core", "transport", "bootstrap", "collectives", "ps")
PROGRAMS = ("tools", "perf", "examples")
BACKENDS = ("transport/shm", "transport/sim", "transport/ucx", "transport/verbs")

# Which folders' headers a folder may include besides its own and the public ones.
ARROWS = {
    "core": (),
    "transport": ("core",),
    "bootstrap": ("core",),
    "collectives": ("core", "transport", "bootstrap"),
    "ps": ("core", "transport", "bootstrap"),
}
for backend in BACKENDS:
    ARROWS[backend] = ("core", "transport")

# Headers of other libraries that one folder alone may see.
FOREIGN = {"infiniband/": "transport/verbs", "rdma/": "transport/verbs", "ucp/": "transport/ucx", "ucs/": "transport/ucx",
           "uct/": "transport/ucx"}

# What the library must not call, and why; a pattern follows the name.
BANNED = {
    r"(?:secure_)?getenv\s*\(": "only core/config.c reads the environment",
    r"(?:abort|exit|_exit|_Exit|quick_exit|assert)\s*\(": "the library never ends the process; return a weir_status",
    r"(?:printf|puts|putchar|vprintf|perror)\s*\(": "the library prints through its log alone",
    r"(?:fprintf|vfprintf|fputs|fputc|dprintf)\s*\(\s*(?:stdout|stderr)\b": "the library prints through its log alone",
    r"f(?:puts|putc|write)\s*\([^;]*\b(?:stdout|stderr)\b": "the library prints through its log alone",
    r"(?:sprintf|vsprintf|strcpy|strcat|gets|alloca)\s*\(": "nothing bounds it; use the call that takes a size",
}
BANNED = {re.compile(r"(?<![\w.>])" + pattern): why for pattern, why in BANNED.items()}

MACHINE_PATHS = re.compile(r"/(?:work|home/\w+|tmp/(?:wt|build))[/-]")

TEXT_SUFFIXES = (".c", ".h", ".py", ".sh", ".cmake", ".txt", ".md", ".in", ".map", ".json", "")
SKIPPED_FOLDERS = re.compile(r"^(?:build.*|\.git|\.cache|__pycache__|corpus)$")

COMMENT_OR_STRING = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def files_of(root):
    """All text files of the source tree, by their path within it."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not SKIPPED_FOLDERS.match(name))
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            if path.suffix in TEXT_SUFFIXES and name != ".git" and not path.is_symlink():
                yield path.relative_to(root).as_posix()


def blanked(text, strings=True):
    """The code with comments (and the insides of strings) blank; lines stay where they are."""
    def blank(match):
        found = match.group(0)
        if found[0] == "/":
            return re.sub(r"[^\n]", " ", found)
        return found[0] + " " * (len(found) - 2) + found[0] if strings else found
    return COMMENT_OR_STRING.sub(blank, text)


def room_of(path):
    """The folder that rules apply to: a backend, else the first folder, with a program's own folder in examples."""
    for backend in BACKENDS:
        if path.startswith(backend + "/"):
            return backend
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "examples" and len(parts) > 2 else parts[0]


def check_include(root, path, bracket, header):
    """Why a file may not include a header, or None."""
    room, top = room_of(path), path.split("/")[0]
    for prefix, owner in FOREIGN.items():
        if header.startswith(prefix) and (top in LIBRARY + PROGRAMS) and room != owner:
            return f"<{header}> is for {owner} alone"
    if header.startswith("weir/"):
        return None if bracket == "<" else f'"{header}" is public; include it in angle brackets'
    if bracket == "<":
        return None
    if top == "tests":
        return None
    if top == "include":
        return f'"{header}": a public header sees public headers alone'
    target = header if (root / header).is_file() else os.path.normpath(os.path.join(os.path.dirname(path), header))
    if not (root / target).is_file():
        return f'"{header}" is not a file of the project'
    to = room_of(target)
    if to == room or to in ARROWS.get(room, ()):
        return None
    return f'"{header}": {room} may include {", ".join((room, *ARROWS.get(room, ()), "include/weir"))} alone'


def check_includes(root, path, text):
    for number, line in enumerate(blanked(text, strings=False).split("\n"), 1):
        match = INCLUDE.match(line)
        complaint = check_include(root, path, *match.groups()) if match else None
        if complaint:
            yield number, complaint


def check_calls(path, text):
    if path.split("/")[0] not in LIBRARY:
        return
    code = blanked(text)
    for pattern, why in BANNED.items():
        for match in pattern.finditer(code):
            if path == "core/config.c" and "getenv" in match.group(0):
                continue
            yield code.count("\n", 0, match.start()) + 1, f"{match.group(0).split('(')[0].strip()}(): {why}"


def check_functions(text):
    """Functions begin with a brace in the first column, after a line that does not belong to the one before."""
    start, body = 1, None
    for number, line in enumerate(text.split("\n"), 1):
        if line == "{":
            body = number
        elif line.startswith("}") and body:
            if number - start + 1 > FUNCTION_LINES_MAX:
                yield start, f"a function of {number - start + 1} lines; at most {FUNCTION_LINES_MAX}"
            start, body = number + 1, None
        elif body is None and (not line.strip() or line.startswith(("}", "#")) or line.endswith((";", "*/"))):
            start = number + 1


def check_comments(path, text):
    """How much of a public header explains."""
    if not path.startswith("include/"):
        return
    code = blanked(text, strings=False).split("\n")
    lines = [(before, after) for before, after in zip(text.split("\n"), code) if before.strip()]
    share = sum(before != after for before, after in lines) / max(len(lines), 1)
    if share < HEADER_COMMENT_MIN:
        yield 1, f"{share:.0%} of its lines hold a comment; a public header needs {HEADER_COMMENT_MIN:.0%}"


def check_lines(path, text):
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        yield lines, f"{lines} lines; at most {FILE_LINES_MAX}"
    if path.startswith("tests/tidy/"):
        return
    for number, line in enumerate(text.split("\n"), 1):
        if MACHINE_PATHS.search(line):
            yield number, "a path of somebody's machine"


def check_file(root, path):
    text = (root / path).read_text(encoding="utf-8", errors="replace")
    yield from check_lines(path, text)
    if path.endswith((".c", ".h")):
        yield from check_includes(root, path, text)
        yield from check_calls(path, text)
        yield from check_functions(text)
        yield from check_comments(path, text)


def check_compiles(root, compiler, language, standard):
    """Each public header must compile alone; all compilers run at once."""
    command = [compiler, "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only",
               "-I", str(root / "include")]
    headers = sorted((root / "include").rglob("*.h"))
    running = [(header, subprocess.Popen([*command, str(header)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
               for header in headers]
    for header, process in running:
        output = process.communicate()[0].decode(errors="replace")
        if process.returncode:
            yield header.relative_to(root).as_posix(), 1, f"does not compile alone as {standard}:\n{output}"


def complaints(root):
    for path in files_of(root):
        for number, text in check_file(root, path):
            yield path, number, text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--cc")
    parser.add_argument("--cxx")
    options = parser.parse_args()
    found = list(complaints(options.root))
    if options.cc:
        found += check_compiles(options.root, options.cc, "c", "c11")
    if options.cxx:
        found += check_compiles(options.root, options.cxx, "c++", "c++11")
    for path, number, text in found:
        print(f"{path}:{number}: {text}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
