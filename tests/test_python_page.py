"""docs/python.md: what it shows works as it stands, in one interpreter, from a folder of its own."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
SMALL = '"video=false", "compile=false", "evaluation.episodes=1", "task.max_control_steps=30", "model.width=32"'


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    blocks[0] = blocks[0].replace('"steps=25000"', f'"steps=1100", {SMALL}')
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert (tmp_path / "runs" / "mine" / "summary.json").exists()
    plan, size = names["plan"], names["agent"].curve.size
    assert plan.tokens.shape == plan.spread.shape == (len(plan.tokens), 2, size)
    assert names["value"].shape == plan.worth.shape == (2,)
    printed = capsys.readouterr().out
    assert f"{names['summary']['return_mean']} {names['summary']['policy_return_mean']}" in printed
