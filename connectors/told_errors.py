"""What a class raises that Bytewax calls is logged, too."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from schemas.errors import AureonError

X = TypeVar("X")

step_log = logging.getLogger("aureon.step")
"""Where `tells_errors` writes; silenced by who runs a flow in one process and tells the error itself."""


def tells_errors(kind: type[X]) -> type[X]:
    """Have what the public methods of a class raise logged: for classes whose methods Bytewax calls.

    In a cluster of several processes Bytewax loses the error of a step: every process ends with a panic that says
    "Send thread panic", and nothing else.
    """
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(kind, name, _telling(method))
    return kind


def _telling(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def told(*args: Any, **named: Any) -> Any:
        try:
            return method(*args, **named)
        except StopIteration:  # a source's way to say that it is at its end
            raise
        except AureonError as error:
            step_log.error("%s: %s", method.__qualname__, error)
            raise
        except Exception:
            step_log.exception("%s", method.__qualname__)
            raise

    return told
