"""Which modules a process of this project imports: the standard library's, ours, then others.

Python looks into the working directory and the folders in PYTHONPATH before that, so that a
`queue.py` or `broker/` there would run. The variable itself stays: CANN's tools need it.

As a script it runs a module: `python -P import_path.py -m MODULE ARGUMENT …`.
"""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_STDLIB = os.path.dirname(os.__file__)
_FIRST = (_STDLIB, os.path.join(_STDLIB, "lib-dynload"), _ROOT)


def put_ours_first() -> None:
    here = os.path.realpath(os.curdir)
    others = [entry for entry in sys.path if entry not in _FIRST]
    # An empty entry in PYTHONPATH also stands for the working directory.
    sys.path[:] = [*_FIRST, *(entry for entry in others if os.path.realpath(entry) != here)]


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in a process of its own."""
    return [sys.executable, "-P", os.path.abspath(__file__), "-m", module, *arguments]


def _main() -> None:
    import runpy

    _, _, module, *arguments = sys.argv
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


put_ours_first()  # before any other import

if __name__ == "__main__":
    _main()
