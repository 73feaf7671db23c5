"""The process that the quality gate runs in; it ends with its input, also while it is still importing.

Great Expectations takes some ten seconds of a core to import. Where the cell was killed meanwhile, the next life needs
that core, and has a gate of its own.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import warnings


def end_with_input() -> None:
    """Wait until nobody can write to the standard input any more, and end."""
    input_ = select.poll()
    input_.register(sys.stdin.fileno(), 0)
    input_.poll()
    os._exit(0)


def main() -> None:
    """Judge batches until the input ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever stops all processes of a cell at once means the cell
    watch = threading.Thread(target=end_with_input, daemon=True)
    watch.start()
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    from one_lake import gate_child  # noqa: PLC0415 - from here on its input is watched

    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        gate_child.serve(sys.stdin.buffer, out)
    watch.join()  # there is one way out: a process that ends by two threads at once may end by SIGSEGV


if __name__ == "__main__":
    main()
