"""The trace of decisions: what was considered, chosen and rejected, a row for each, in Parquet files beside the run.

A thread writes the rows of the last second, so that a process killed at any moment leaves them. The newest file is
written again, as a whole and under another name first, until it holds ROWS; the oldest files go beyond MOST_BYTES.
"""

import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from policies.storage.folders import FolderError, forget_oldest
from worldmodel.guidance import Guided
from worldmodel.model import WorldModel
from worldmodel.mppi import Plan

ROWS, EVERY_S = 512, 1.0  # rows of a file, and seconds between two writings
MOST_BYTES = 256 << 20
REJECTED = 3  # how many rejected plans a row holds: of the best, those that differ most from what is in the row already
TRACE, ABOUT = "trace", b"semagram"  # the usual name of the folder, and the key of `about` in a file's metadata
Place = Callable[[], tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]]


class Trace:
    """Writes the decisions of an agent to a folder. `place` gives the episode and the frame of each environment now.

    `about`: plain data that describes the run, kept in each file. Not closed, the thread ends with the process.
    """

    def __init__(self, folder: Path, about: dict, place: Place = lambda: ([0], [0])):
        """Begin in a folder, after the files that are there. Raises OSError."""
        import pyarrow.parquet

        pyarrow.Table.from_pylist([{"": 0}])  # now, as what it imports at first takes seconds
        self.folder, self.place = folder, place
        folder.mkdir(parents=True, exist_ok=True)
        self._number = max((int(path.stem) for path in files(folder)), default=-1) + 1
        self._about = json.dumps(about)
        self._rows: deque[tuple] = deque()  # not written yet
        self._kept: list[dict] = []  # of the newest file
        self._stop, self._writing = threading.Event(), threading.Lock()
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="trace")
        self._thread.start()

    def add(
        self,
        model: WorldModel,
        plan: Plan,
        tokens: Float[Tensor, "T B P"],
        until: Int[Tensor, " B"],
        by_policy: Bool[Tensor, " B"],
        due: Bool[Tensor, " B"],
        plan_ms: float,
    ) -> None:
        """Take in the decisions of the environments that were `due`; of the planner on `model`.

        tokens, until, by_policy: as in `Decision`. Raises OSError if the last ones could not be written.
        """
        if self.error is not None:
            raise self.error
        episodes, frames = self.place()
        now = time.time()
        places = [(i, int(episodes[i]), int(frames[i])) for i in due.nonzero()[:, 0].tolist()]
        self._rows.append((now, places, model, plan, tokens, until, by_policy, plan_ms))

    def close(self) -> None:
        """Write what is left, and end. Raises OSError if something could not be written."""
        self._stop.set()
        self._thread.join()
        self._write()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self._write()
            except OSError as error:  # a full disk: reported at the next decision
                self.error = error
                return

    def _write(self) -> None:
        with self._writing:
            fresh = len(self._rows)
            for _ in range(fresh):
                self._kept += _decisions(*self._rows.popleft())
            while fresh and self._kept:
                self._file(self._kept[:ROWS])
                if len(self._kept) < ROWS:
                    break
                self._kept, self._number = self._kept[ROWS:], self._number + 1
                forget_oldest(files(self.folder), MOST_BYTES)

    def _file(self, rows: list[dict]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, _typed(pa, value)) for name, value in rows[0].items()], {ABOUT: self._about})
        table = pa.Table.from_pylist(rows, schema)
        aside = self.folder / f".{self._number:06d}.{os.getpid()}"
        pq.write_table(table, aside, compression="zstd", use_dictionary=False, write_statistics=False)
        os.replace(aside, self.folder / f"{self._number:06d}.parquet")


@contextmanager
def traced(agent: Any, folder: Path | None, about: dict) -> Iterator[None]:
    """Keep all that an agent decides inside the block in a folder, if one is given. Raises OSError."""
    if folder is None:
        yield
        return
    with closing(Trace(folder, about)) as agent.trace:
        yield
    agent.trace = None


def _decisions(
    now: float, places: list, model: WorldModel, plan: Plan, tokens, until, by_policy, plan_ms: float
) -> list[dict]:
    """Return the rows of one call of the planner."""
    chosen, elites = plan.tokens.cpu().numpy(), plan.elites.cpu().numpy()
    std, returns, weights = plan.std.cpu().numpy(), plan.returns.cpu().numpy(), plan.weights.cpu().numpy()
    candidates = returns if plan.scores is None else plan.scores.cpu().numpy()
    latent, expected = plan.latent.cpu().numpy(), plan.expected_return.cpu().numpy()
    terms, readings, met = _guidance(model, plan)
    rows = []
    for i, episode, frame in places:
        lost = rejected(elites[:, i], returns[i], chosen[:, i])
        rows.append(
            {
                **{"episode_index": episode, "frame_index": frame, "time": now, "plan_ms": plan_ms},
                **{"steps": int(until[i]), "by_policy": bool(by_policy[i])},
                **{"iterations": plan.iterations, "model_calls": plan.model_calls},
                "latent": latent[i].astype(np.float32),
                "tokens": tokens[:, i].numpy().astype(np.float32).ravel(),
                "expected_return": float(expected[i]),
                "std": std[:, i].astype(np.float32).ravel(),
                "candidate_returns": np.sort(candidates[i])[::-1].astype(np.float32),
                "elite_returns": returns[i].astype(np.float32),
                "elite_weights": weights[i].astype(np.float32),
                "rejected_tokens": elites[:, i, lost].swapaxes(0, 1).astype(np.float32).ravel(),
                "rejected_returns": returns[i, lost].astype(np.float32),
                "rejected_weights": weights[i, lost].astype(np.float32),
                "guidance_terms": terms,
                "guidance_readings": readings[i],
                "guidance_met": met[i],
            }
        )
    return rows


def rejected(
    elites: Float[np.ndarray, "T E P"], returns: Float[np.ndarray, " E"], chosen: Float[np.ndarray, "T P"]
) -> list[int]:
    """Return which of a plan's elites stand for what was not done: of the better half, each farthest from the rest."""
    usable = [e for e in range(len(returns)) if np.isfinite(returns[e])]
    best = usable[: max(REJECTED + 1, len(usable) // 2)]
    taken: list[int] = []
    near = np.square(elites - chosen[:, None]).sum((0, 2))
    for _ in range(min(REJECTED, len(best))):
        taken.append(max((e for e in best if e not in taken), key=lambda e: near[e]))
        near = np.minimum(near, np.square(elites - elites[:, taken[-1:]]).sum((0, 2)))
    return sorted(taken)


@torch.no_grad()
def _guidance(model: WorldModel, plan: Plan) -> tuple[list[str], list[list[float]], list[float]]:
    """Return the quantities of the guidance's terms, what the latents say of each, and how well it is met (0 to 1)."""
    if not isinstance(model, Guided):
        return [], [[]] * len(plan.latent), [float("nan")] * len(plan.latent)
    names = [term.quantity for guidance, _ in model.guidances for term in guidance.terms]
    read = torch.cat([guidance.probes(plan.latent) for guidance, _ in model.guidances], -1)
    return names, read.cpu().tolist(), model.guided_reward(plan.latent).cpu().tolist()


def _typed(pa: Any, value: object):
    """Return the Arrow type of a column."""
    if isinstance(value, np.ndarray):
        return pa.list_(pa.float32())
    if isinstance(value, list):
        return pa.list_(pa.string() if value and isinstance(value[0], str) else pa.float32())
    return {bool: pa.bool_(), int: pa.int32(), float: pa.float64()}[type(value)]


def files(folder: Path) -> list[Path]:
    """Return the files of a trace, oldest first."""
    return sorted(path for path in folder.glob("*.parquet") if re.fullmatch(r"\d{6,}", path.stem))


def read(folder: Path) -> tuple[list[dict], dict]:
    """Read a trace: its rows, oldest first, and what it says about the run. Raises FolderError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not (found := files(folder)):
        raise FolderError(f"{folder}: holds no trace; trace=true makes one")
    try:
        tables = [pq.read_table(path) for path in found]
        about = json.loads(tables[-1].schema.metadata[ABOUT])
        return [row for table in tables for row in table.to_pylist()], about
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{folder}: not a trace ({error})") from error
