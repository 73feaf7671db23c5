"""What is judged by which tests: the cheapest that a user's trust in the module rests on."""

from tests.mutation.judge import Target

_STEPS = "tests/flows/steps"
_PLANNED = (f"{_STEPS}/test_plan.py", f"{_STEPS}/test_supervise.py")

TARGETS = (
    Target("flows/lane.py", ("tests/flows/test_lane.py",), schedules=300),
    Target(
        "flows/steps/validate.py",
        (f"{_STEPS}/test_validate.py", "tests/flows/test_checks.py", "tests/flows/test_votes.py", *_PLANNED),
    ),
    Target("flows/comparing/equivalence.py", ("tests/flows/comparing/test_equivalence.py", "-knot megabyte")),
    Target("flows/votes.py", ("tests/flows/test_votes.py", "-knot voters and not copies and not copy")),
    Target("flows/judgement.py", ("tests/flows/test_judgement.py", *_PLANNED)),
    Target("flows/policies.py", ("tests/flows/test_policies.py",)),
    *[
        Target(f"flows/supervision/{name}.py", (f"tests/flows/supervision/test_{test}.py", *also))
        for name, test, also in (
            ("supervisor", "supervisor", (f"{_STEPS}/test_supervise.py",)),
            (
                "case",
                "case",
                tuple(f"tests/flows/supervision/test_{t}.py" for t in ("course", "form", "insults", "supervisor")),
            ),
            ("file", "file", ()),
            ("form", "form", ()),
            ("course", "course", ()),
            ("health", "health", ()),
            ("safety", "safety", ()),
            ("injection", "injection", ()),
            ("insults", "insults", ()),
            ("bias", "bias", ()),
            ("text", "text", ()),
        )
    ],
)
