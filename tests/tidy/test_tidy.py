#!/usr/bin/env python3
"""tidy.py finds each thing that it is for, and nothing in code that is as it should be."""
import pathlib
import tempfile
import unittest

import tidy


class Tidy(unittest.TestCase):
    def expect(self, files, *expected):
        """Makes a tree of `files` (path: content) and compares complaints, of which `expected` are beginnings."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for path, content in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(content, encoding="utf-8")
            found = [f"{path}:{number}: {text}" for path, number, text in tidy.complaints(root)]
        self.assertEqual(len(found), len(expected), found)
        for complaint, beginning in zip(found, expected):
            self.assertTrue(complaint.startswith(beginning), complaint)

    def test_arrows_that_are_allowed(self):
        headers = dict.fromkeys(("core/a.h", "transport/ops.h", "transport/shm/ring.h", "bootstrap/boot.h", "ps/wire.h",
                                 "tools/weir_tool.h"), "\n")
        self.expect({**headers, "transport/shm/x.c": '#include "core/a.h"\n#include "transport/ops.h"\n'
                                                     '#include "transport/shm/ring.h"\n#include <weir/status.h>\n',
                     "transport/verbs/x.c": "#include <infiniband/verbs.h>\n",
                     "ps/x.c": '#include "ps/wire.h"\n#include "bootstrap/boot.h"\n#include "transport/ops.h"\n',
                     "tests/x.c": '#include "transport/shm/ring.h"\n',
                     "tools/x.c": '#include "weir_tool.h"\n#include <weir/weir.h>\n#include <stdio.h>\n'})

    def test_arrows_the_wrong_way(self):
        headers = dict.fromkeys(("core/a.h", "transport/ops.h", "transport/shm/ring.h", "ps/wire.h"), "\n")
        for path, include in (("core/x.c", '"transport/ops.h"'), ("transport/x.c", '"transport/shm/ring.h"'),
                              ("transport/ucx/x.c", '"transport/shm/ring.h"'), ("collectives/x.c", '"ps/wire.h"'),
                              ("ps/x.c", '"transport/shm/ring.h"'), ("bootstrap/x.c", '"transport/ops.h"'),
                              ("tools/x.c", '"core/a.h"'), ("perf/x.c", '"../core/a.h"'), ("core/y.c", '"weir/ps.h"'),
                              ("transport/x.c", "<ucp/api/ucp.h>"), ("transport/ucx/x.c", "<infiniband/verbs.h>"),
                              ("tools/x.c", "<rdma/rdma_cma.h>"), ("core/x.c", '"core/none.h"'),
                              ("include/weir/x.h", '"core/a.h"')):
            lines = f"/* why */\n/* more */\n#include {include}\n"
            self.expect({**headers, path: lines}, f"{path}:3: ")

    def test_comments_and_strings_are_no_code(self):
        self.expect({"core/x.c": '/* #include "ps/wire.h"\n * abort() */\nstatic const char text[] = "exit(1) \\" getenv(";\n'
                                 "// printf(\nint snprintf_exit(void);\nstruct ops ops = {.exit = x->exit(1)};\n"})

    def test_banned_calls(self):
        for call in ("getenv(name)", "abort()", "exit (1)", "_exit(1)", "printf(text)", "puts(text)", "assert(x)",
                     "fprintf(stderr, text)", "fputs(text, stdout)", "sprintf(text, format)", "strcpy(a, b)"):
            code = f"void f(void)\n{{\n    {call};\n}}\n"
            self.expect({"ps/x.c": code}, "ps/x.c:3: ")
            self.expect({"tools/x.c": code})
        self.expect({"core/config.c": "void f(void)\n{\n    getenv(name);\n}\n"})

    def test_long_functions(self):
        def function(lines):
            return "/* Why. */\nstatic int f(int a,\n             int b)\n{\n" + "    a += b;\n" * (lines - 4) + "}\n"

        self.expect({"perf/x.c": function(70) + "\n" + function(70)})
        self.expect({"perf/x.c": function(70) + "\n" + function(71)}, "perf/x.c:74: a function of 71 lines")
        self.expect({"perf/x.c": "static const int table[] = {\n" + "    1,\n" * 200 + "};\n"})

    def test_long_files(self):
        self.expect({"scripts/x.sh": ":\n" * 1000})
        self.expect({"scripts/x.sh": ":\n" * 1001}, "scripts/x.sh:1001: 1001 lines")

    def test_headers_explain(self):
        self.expect({"include/weir/x.h": "/* What. */\nint f(void);\n\n/* What. */\nint g(void); /* why */\nint h;\n"})
        self.expect({"include/weir/x.h": "/* What. */\nint f(void);\nint g(void);\n"}, "include/weir/x.h:1: 33%")

    def test_paths_of_machines(self):
        for path in ("/home/someone/weir", "/tmp/build-x/weir"):
            self.expect({"docs/x.md": f"See {path}.\n"}, "docs/x.md:1: ")
        self.expect({"docs/x.md": "See /tmp/weir, /usr/share and build/release.\n", "build/x/y.c": "/home/someone/x\n"})

    def test_headers_compile_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "include/weir").mkdir(parents=True)
            (root / "include/weir/bad.h").write_text("size_t f(void);\n", encoding="utf-8")
            (root / "include/weir/good.h").write_text("#include <stddef.h>\nsize_t f(void);\n", encoding="utf-8")
            found = [path for path, _, _ in tidy.check_compiles(root, "cc", "c", "c11")]
        self.assertEqual(found, ["include/weir/bad.h"])


if __name__ == "__main__":
    unittest.main()
