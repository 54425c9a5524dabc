"""Which small errors in a source file do its tests notice? Prints a score, and each mutant that no test noticed.

    python tests/bench/mutants.py worldmodel/mppi.py tests/test_planner.py [...] [sample=0] [seed=0] [limit=60]

Each mutant is one change of the syntax tree inside a function. The tests are collected and timed once. Each mutant then
gets a fork of this process, in which the function's code is exchanged, and of the tests (but slow ones) that call it
the fastest run first, until one fails or, noticed too, the process has used `limit` s of CPU, or 4 x `limit` s in all.
`sample`: try so many, drawn by `seed`. Not a test.
"""

import ast
import copy
import functools
import gc
import importlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[2]
PAIRS = "Add Sub, Mult Div, FloorDiv Div, BitAnd BitOr, Lt GtE, Gt LtE, Eq NotEq, And Or, Is IsNot, In NotIn"
SWAPS = [[getattr(ast, name) for name in pair.split()] for pair in PAIRS.split(", ")]
OTHER = {b: a for a, b in SWAPS} | dict(SWAPS) | {ast.Pow: ast.Mult, ast.Mod: ast.Mult}
NEIGHBOUR = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
METHOD = dict(amin="amax", amax="amin", min="max", max="min", mean="sum", sum="mean", zeros="ones", ones="zeros")
LEFT_OUT = {"abs", "square", "sqrt", "exp", "log", "detach", "softmax", "clamp", "relu", "tanh", "sigmoid", "sign"}


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in the place of a node."""
    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in OTHER:
            yield changed(node, op=OTHER[type(node.op)]())
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
                yield from (node.left, node.right)
        case ast.Compare(ops=[first, *rest]):
            for new in [table[type(first)] for table in (OTHER, NEIGHBOUR) if type(first) in table]:
                yield changed(node, ops=[new(), *rest])
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool() | int() | float() as value):
            yield changed(node, value=not value if isinstance(value, bool) else value + 1)
        case ast.If() | ast.IfExp() | ast.While():
            yield changed(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Call(func=ast.Attribute(value=owner, attr=name) as method):
            if name in METHOD:
                yield changed(node, func=changed(method, attr=METHOD[name]))
            if name in LEFT_OUT:
                yield node.args[0] if ast.unparse(owner) in ("torch", "F") else owner
            if name == "where" and len(node.args) == 3:
                yield changed(node, args=[node.args[0], node.args[2], node.args[1]])
        case ast.Expr(value=ast.Call()) if "super()" not in ast.unparse(node):  # else the code has another cell
            yield ast.Pass()


def changed(node: ast.AST, **fields) -> ast.AST:
    """Copy a node with other fields."""
    new = copy.copy(node)
    vars(new).update(fields)
    return new


def places(node: ast.AST, function: str = "", prefix: str = "") -> Iterator[tuple]:
    """Yield (function, parent, field, index, node) of all code in functions, but messages and annotations."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params") or isinstance(node, ast.Raise):
            continue
        for at, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, ast.arguments):
                continue
            if function:
                yield function, node, field, at if isinstance(value, list) else None, child
            outer = isinstance(child, ast.FunctionDef) and not function
            inside = f"{prefix}{child.name}" if outer else function
            yield from places(child, inside, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)


def mutants(path: Path) -> Iterator[tuple[int, str, str, types.CodeType]]:
    """Yield (line, change, name of the function, its mutated code)."""
    tree = ast.parse(path.read_text())
    for function, parent, field, at, node in list(places(tree)):
        for new in variants(node):
            value = getattr(parent, field)
            setattr(parent, field, new if at is None else [*value[:at], new, *value[at + 1 :]])
            whole = compile(ast.fix_missing_locations(copy.deepcopy(tree)), str(path), "exec")
            setattr(parent, field, value)
            shown = "  ->  ".join(ast.unparse(part).split("\n")[0][:90] for part in (node, new))
            yield node.lineno, shown, function, codes(whole)[function]


def codes(code: types.CodeType) -> dict[str, types.CodeType]:
    """Return the code of all functions in a module, by their full names."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return {each.co_qualname: each for each in inner} | {k: v for each in inner for k, v in codes(each).items()}


class Trial:
    """Runs the collected tests against each mutant of one file, in forks of this process."""

    def __init__(self, path: Path, sample: int, seed: int, limit: int):
        self.path, self.sample, self.seed, self.limit = path, sample, seed, limit

    def pytest_collection(self) -> None:
        """Let any failing example do: looking for the smallest one takes most of the time."""
        import hypothesis  # pytest warns if that is imported before it

        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("unshrunk", hypothesis.settings.default, phases=phases)
        hypothesis.settings.load_profile("unshrunk")

    def pytest_runtestloop(self, session) -> bool:
        """Try the mutants, in place of running the tests."""
        importlib.import_module(".".join(self.path.relative_to(ROOT).with_suffix("").parts))  # some tests import late
        every = gc.get_objects()
        self.caches = [each for each in every if type(each) is functools._lru_cache_wrapper]
        own = [each for each in every if type(each) is types.FunctionType]
        self.functions = [each for each in own if each.__code__.co_filename == str(self.path)]
        gc.freeze()  # so that a fork need not copy what it collects
        with tempfile.NamedTemporaryFile() as file:
            if forked(lambda: Path(file.name).write_text(json.dumps(self.survey(session.items)))):
                sys.exit("the tests fail without any change")
            tests = sorted(json.loads(Path(file.name).read_text()))
        found = list(mutants(self.path))
        if self.sample:
            found = random.Random(self.seed).sample(found, min(self.sample, len(found)))
        name, survivors = str(self.path.relative_to(ROOT)), 0
        for line, change, function, code in sorted(found, key=lambda mutant: mutant[0]):
            chosen = [session.items[at] for _, at, called in tests if function in called]
            status = forked(lambda: self.attack(function, code, chosen))  # noqa: B023  called at once
            if not status:
                survivors += 1
                print(f"{name}:{line}: {change}{'' if chosen else '  (no test)'}", flush=True)
        print(json.dumps({"file": name, "mutants": len(found), "noticed": len(found) - survivors}), flush=True)
        return True

    def survey(self, items: list) -> list[tuple[float, int, list[str]]]:
        """Run every test; return its seconds, its place, and which functions of the file it calls."""
        watch, called, result = sys.monitoring, set(), []

        def begun(code: types.CodeType, _offset):
            if code.co_filename != str(self.path):
                return watch.DISABLE
            called.add(code.co_qualname.split(".<locals>")[0])

        watch.use_tool_id(4, "mutants")
        watch.register_callback(4, watch.events.PY_START, begun)
        watch.set_events(4, watch.events.PY_START)
        for at, item in enumerate(items):
            called.clear()
            began = time.process_time()
            run(item)
            result.append((time.process_time() - began, at, sorted(called)))
        return result

    def attack(self, function: str, code: types.CodeType, items: list) -> None:
        """Exchange a function's code wherever it is referred to, and run these tests."""
        resource.setrlimit(resource.RLIMIT_CPU, (self.limit, self.limit))
        signal.alarm(4 * self.limit)  # it may wait for ever
        for each in self.caches:
            each.cache_clear()
        for each in self.functions:
            if each.__code__.co_qualname == function:
                each.__code__ = code
        for item in items:
            run(item)


def run(item) -> None:
    """Run one test. Exits with status 1 if it fails."""
    if any(report.failed for report in runtestprotocol(item, log=False, nextitem=None)):
        os._exit(1)


def forked(work: Callable[[], object]) -> int:
    """Run work in a fork of this process, without its output; return 0 if it ended as it should, else its status."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    status = 1  # also where an interrupt escapes from the tests
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Try the mutants of one file."""
    keys = {"sample": 0, "seed": 0, "limit": 60} | dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    file, *tests = [word for word in sys.argv[1:] if "=" not in word]
    os.chdir(ROOT)
    trial = Trial(ROOT / file, int(keys["sample"]), int(keys["seed"]), int(keys["limit"]))
    sys.exit(pytest.main(["-n0", "-qs", "-m", "not slow", "-p", "no:cacheprovider", *tests], plugins=[trial]))


if __name__ == "__main__":
    main()
