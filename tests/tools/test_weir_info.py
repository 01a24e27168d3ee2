#!/usr/bin/env python3
"""The weir tool as users see it: its commands, and what `weir info` tells as text, JSON and Markdown."""
import json
import os
import re
import subprocess
import sys
import unittest

TOOL, VERSION = sys.argv.pop(1), sys.argv.pop(1)


def weir(*arguments, **environment):
    """Runs the tool with nothing of Weir's in its environment but what is given."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_") and name != "RANK"}
    return subprocess.run([TOOL, *arguments], env={**base, **environment}, capture_output=True,
                          encoding="utf-8", timeout=60)


class Commands(unittest.TestCase):
    def expect(self, result, status, stdout="", stderr=""):
        self.assertEqual(result.returncode, status, result)
        self.assertRegex(result.stdout, stdout or "^")
        self.assertRegex(result.stderr, stderr or "^")

    def test_version(self):
        self.expect(weir("--version"), 0, rf"^weir {re.escape(VERSION)}\n$")

    def test_help_lists_the_commands(self):
        for arguments in (["--help"], ["-h"], ["help"]):
            self.expect(weir(*arguments), 0, r"usage: weir COMMAND[^\0]*\n  info +\S[^\0]*\n  run +\S", r"^$")

    def test_help_of_a_command_is_its_own(self):
        for command in ("doctor", "info", "run"):
            self.expect(weir("help", command), 0, rf"(?i)usage: weir {command}", r"^$")
            self.assertEqual(weir("help", command).stdout, weir(command, "--help").stdout)

    def test_wrong_calls_give_2_and_say_why(self):
        self.expect(weir(), 2, r"^$", "usage")
        self.expect(weir("nonsense"), 2, r"^$", "'nonsense' is not a command")
        self.expect(weir("help", "nonsense"), 2, r"^$", "'nonsense' is not a command")
        self.expect(weir("info", "--nonsense"), 2, r"^$", "unknown option '--nonsense'")
        self.expect(weir("info", "--markdown"), 2, r"^$", "--markdown goes with --env")
        self.expect(weir("run", "--nonsense"), 2, r"^$", "^weir run: .*'--nonsense'\n.*weir run --help")
        self.expect(weir("top", "--nonsense"), 2, r"^$", "^weir top: .*'--nonsense'\n.*weir top --help")


class Machine(unittest.TestCase):
    def test_json_and_text_tell_the_same(self):
        text, parsed = weir("info"), json.loads(weir("info", "--json").stdout)
        self.assertEqual((text.returncode, text.stderr), (0, ""))
        self.assertEqual(parsed["version"], VERSION)
        self.assertIn(parsed["build"], text.stdout)
        self.assertEqual(parsed["processors"], os.sysconf("SC_NPROCESSORS_ONLN"))
        self.assertEqual(list(parsed["transports"]), ["verbs", "ucx", "shm"])
        for name, transport in parsed["transports"].items():
            self.assertEqual(transport["usable"], transport["why"] is None)
            told = "usable" if transport["usable"] else re.escape(transport["why"].removeprefix(name + ": "))
            self.assertRegex(text.stdout, rf"(?m)^  {name} +{told}$")
        for name, present in parsed["features"].items():
            self.assertIn((" " if present else " no-") + name, text.stdout)

    def test_rdma_ports_are_those_of_the_kernel(self):
        parsed = json.loads(weir("info", "--json").stdout)["rdma"]
        root = "/sys/class/infiniband"
        ports = [(device, int(port)) for device in sorted(os.listdir(root) if os.path.isdir(root) else [])
                 for port in sorted(os.listdir(f"{root}/{device}/ports"), key=int)]
        self.assertEqual([(port["device"], port["port"]) for port in parsed], ports)
        self.assertRegex(weir("info").stdout, r"(?m)^rdma " if ports else r"(?m)^rdma +no device$")

    def test_features_are_those_of_the_kernel(self):
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            flags = set(re.search(r"(?m)^(?:flags|Features)\s*:(.*)$", cpuinfo.read()).group(1).split())
        for name, present in json.loads(weir("info", "--json").stdout)["features"].items():
            self.assertEqual(present, name in flags, name)

    def test_bad_environment_is_told(self):
        result = weir("info", WEIR_CHUNK="12Q")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr, "weir info: WEIR_CHUNK=12Q: not a size; use e.g. 256K\n")
        self.assertNotIn("12Q", result.stdout) # once is enough


    def test_a_text_without_its_form_is_told(self):
        for name, value, complaint in (("WEIR_NUMA", "foo", "not a choice; use auto, off or the number of a node"),
                                       ("WEIR_DEVICE", "mlx5_0:", "not devices and ports; use e.g. mlx5_0:1"),
                                       ("WEIR_INTERFACE", "10.0.0.0/8", "neither the name of an interface nor"),
                                       ("WEIR_METRICS_LISTEN", ":9400", "not a place to listen; use e.g. 9400")):
            result = weir("info", "--env", **{name: value})
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stderr, f"^weir info: {re.escape(f'{name}={value}: {complaint}')}")
            self.assertRegex(result.stdout, rf"(?m)^{name}={re.escape(value)}\n.*\n.*in force from: invalid$")


class Variables(unittest.TestCase):
    def setUp(self):
        self.variables = json.loads(weir("info", "--env", "--json").stdout)

    def test_every_variable_is_described(self):
        names = [variable["name"] for variable in self.variables]
        self.assertEqual(len(set(names)), len(names))
        for variable in self.variables:
            self.assertRegex(variable["name"], "^WEIR_[A-Z0-9_]+$")
            self.assertIn(variable["type"], ("size", "duration", "integer", "choice", "text"))
            self.assertRegex(variable["help"], r"^[A-Z].*\.$")
            self.assertEqual((variable["value"], variable["source"]), (variable["default"], "default"))
            self.assertTrue(variable["range"] or variable["type"] == "text", variable)

    def test_text_tells_every_variable(self):
        text = weir("info", "--env").stdout
        for variable in self.variables:
            self.assertIn(f"{variable['name']}={variable['value']}\n    {variable['help']}\n", text)

    def test_values_and_their_source(self):
        result = weir("info", "--env", "--json", WEIR_CHUNK="1M", RANK="-3", WEIR_JOB_ID='a "b\\c\t\u00e4')
        found = {variable["name"]: (variable["value"], variable["source"]) for variable in json.loads(result.stdout)}
        self.assertEqual(found["WEIR_CHUNK"], ("1M", "environment"))
        self.assertEqual(found["WEIR_RANK"], ("-3", "invalid"))
        self.assertEqual(found["WEIR_JOB_ID"], ('a "b\\c\t\u00e4', "environment"))
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr, "weir info: RANK=-3: out of range; use 0..65535\n")

    def test_markdown_has_a_row_of_four_cells_a_variable(self):
        lines = weir("info", "--env", "--markdown", WEIR_CHUNK="1M").stdout.splitlines()
        self.assertEqual(len(lines), len(self.variables) + 2)
        for line, variable in zip(lines[2:], self.variables):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            self.assertEqual(len(cells), 4, line)
            self.assertEqual(cells[0], f"`{variable['name']}`")
            self.assertEqual(cells[2], f"`{variable['default']}`" if variable["default"] else "")


if __name__ == "__main__":
    unittest.main()
