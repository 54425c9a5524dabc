"""A check of what an agent is shown, before anything is computed from it."""

from collections.abc import Mapping

from torch import Tensor

from worldmodel.mistakes import Mistake
from worldmodel.senses import Shapes


def check_observation(observation: Mapping[str, object], shapes: Shapes) -> int:
    """Return B, having checked that each sense that is there is a tensor (B, *shape), with one B for all.

    `shapes`: of the senses that the model perceives (`WorldModel.senses`), of which any but all may be absent. Raises
    ValueError, in one line, that names the sense and the shape it should have.
    """
    count = None
    for key, shape in shapes.items():
        if key not in observation:
            continue
        value = observation[key]
        if not isinstance(value, Tensor):
            raise Mistake(f"{key}: a {type(value).__name__}; a tensor of shape {_batch(shape)} is needed")
        if value.shape[1:] != tuple(shape):
            raise Mistake(f"{key}: shape {tuple(value.shape)}; {_batch(shape)} is needed, of B environments")
        if count not in (None, len(value)):
            raise Mistake(f"{key}: of {len(value)} environments, the senses before it of {count}")
        count = len(value)
    if count is None:
        raise Mistake(f"none of the senses {', '.join(shapes)} is there")
    return count


def _batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, ('B', *shape)))})"
