"""Which small errors in a source file do its tests notice? Prints a score, and each mutant that no test noticed.

    python tests/bench/mutants.py worldmodel/mppi.py tests/test_planner.py [jobs=1] [sample=0] [seed=0] [limit=120]

Each mutant is one change of the syntax tree, written into a copy of the repository. pytest (without slow tests) stops
at its first failure or, noticed too, after `limit` seconds. `sample`: try so many, drawn by `seed`. Not a test.
"""

import ast
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch  # noqa: F401  loaded once, before tests run in forks of this process

ROOT = Path(__file__).parents[2]
OTHER = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult},
    **{ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
    **{ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}
NEIGHBOUR = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
METHOD = {
    **{"amin": "amax", "amax": "amin", "min": "max", "max": "min", "mean": "sum", "sum": "mean"},
    **{"zeros": "ones", "ones": "zeros", "zeros_like": "ones_like", "ones_like": "zeros_like"},
}
LEFT_OUT = {"abs", "square", "sqrt", "exp", "log", "detach", "softmax", "clamp", "relu", "tanh", "sigmoid", "sign"}


def variants(node: ast.AST) -> Iterator[ast.AST | None]:
    """Yield what may stand in the place of a node; None leaves a statement out."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in OTHER:
        yield changed(node, op=OTHER[type(node.op)]())
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
            yield node.left
            yield node.right
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        yield changed(node, ops=[OTHER[type(node.ops[0])](), *node.ops[1:]])
        if type(node.ops[0]) in NEIGHBOUR:
            yield changed(node, ops=[NEIGHBOUR[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield changed(node, value=not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield changed(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name, owner = node.func.attr, node.func.value
        if name in METHOD:
            yield changed(node, func=changed(node.func, attr=METHOD[name]))
        if name in LEFT_OUT:
            yield node.args[0] if ast.unparse(owner) in ("torch", "F") else owner
        if name == "where" and len(node.args) == 3:
            yield changed(node, args=[node.args[0], node.args[2], node.args[1]])
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield None


def changed(node: ast.AST, **fields) -> ast.AST:
    """Copy a node with other fields."""
    new = copy.copy(node)
    vars(new).update(fields)
    return new


def places(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Yield (parent, field, index, node) of all code in functions but messages, annotations and decorators."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params") or isinstance(node, ast.Raise):
            continue
        for at, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                if inside or isinstance(node, ast.Assign):
                    yield node, field, at if isinstance(value, list) else None, child
                yield from places(child, inside or isinstance(node, ast.FunctionDef))


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, change, whole mutated source)."""
    tree = ast.parse(source)
    for parent, field, at, node in list(places(tree)):
        for new in variants(node):
            value = getattr(parent, field)
            put = ast.Pass() if new is None else new
            setattr(parent, field, put if at is None else [*value[:at], put, *value[at + 1 :]])
            text = ast.unparse(ast.fix_missing_locations(tree))
            setattr(parent, field, value)
            shown = (ast.unparse(part).split("\n")[0][:90] for part in (node, put))
            yield node.lineno, "  ->  ".join(shown), text


def start(folder: Path, file: str, text: str, tests: list[str], limit: int) -> int:
    """Run the tests in a child process, in a copy of the repository whose `file` holds `text`; return its number."""
    (folder / file).write_text(text)
    if pid := os.fork():
        return pid
    signal.alarm(limit)  # ends the process
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    own = (str(ROOT), str(ROOT / "configs/plugin"))
    sys.path[:] = [str(folder), str(folder / "configs/plugin"), *(path for path in sys.path if path not in own)]
    sys.dont_write_bytecode = True  # Python takes a file of the same size and second for the same
    os._exit(pytest.main(["-n0", "-xq", "-m", "not slow", "-p", "no:cacheprovider", *tests]))


def main() -> None:
    """Try the mutants of one file."""
    keys = {"jobs": "1", "sample": "0", "seed": "0", "limit": "120", "nice": "5"}
    keys |= dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    file, *tests = [word for word in sys.argv[1:] if "=" not in word]
    source, limit = (ROOT / file).read_text(), int(keys["limit"])
    found = list(mutants(source))
    if int(keys["sample"]):
        found = sorted(random.Random(int(keys["seed"])).sample(found, min(int(keys["sample"]), len(found))))
    os.nice(int(keys["nice"]))
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as temporary:
        free, running, survivors = [Path(temporary, str(job)) for job in range(int(keys["jobs"]))], {}, 0
        for folder in free:
            for name in filter(lambda name: (ROOT / name).is_file(), listed.split("\n")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        if os.waitpid(start(free[0], file, source, tests, 10 * limit), 0)[1]:
            sys.exit(f"{' '.join(tests)}: fail without any change")
        for mutant in [*found, *[None] * len(free)]:  # the latter wait for those that still run
            if not free or (mutant is None and running):
                pid, status = os.wait()
                (line, change), folder = running.pop(pid)
                free.append(folder)
                if not status:
                    survivors += 1
                    print(f"{file}:{line}: {change}", flush=True)
            if mutant is not None:
                folder = free.pop()
                running[start(folder, file, mutant[2], tests, limit)] = mutant[:2], folder
    print(json.dumps({"file": file, "mutants": len(found), "noticed": len(found) - survivors}))


if __name__ == "__main__":
    main()
