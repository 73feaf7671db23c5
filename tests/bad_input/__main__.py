"""Write TABLE.md anew: `python -m tests.bad_input`."""

from tests.bad_input.table import PATH, rendered

if __name__ == "__main__":
    PATH.write_text(rendered(), encoding="utf-8")
