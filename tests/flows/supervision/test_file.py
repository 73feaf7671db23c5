"""The file that names the policies."""

from pathlib import Path

import pytest

from flows.supervision import Case, read_supervision
from flows.supervision.file import BUILT_IN, DEFAULT, built_in_supervisor, parse_supervision
from schemas.decision import Finding
from schemas.errors import RefusedError
from tests.flows.supervision.cases import case


class Shouting:
    """A user's own policy."""

    def __init__(self, share: float = 0.5) -> None:
        self._share = share
        self.name = f"shouting(share={share})"

    def examine(self, asked: Case) -> Finding | None:
        """Count capitals."""
        letters = [c for c in asked.answer if c.isalpha()]
        if not letters or sum(map(str.isupper, letters)) <= self._share * len(letters):
            return None
        return Finding(policy=self.name, action="flag", reason="it shouts", evidence=asked.answer)


def nothing() -> str:
    """No policy at all."""
    return "nothing"


OWN = f"{__name__}:Shouting"


def test_the_list_is_asked_in_its_order_and_where_it_says() -> None:
    """Built-in policies and those of one's own."""
    supervisor = parse_supervision(
        f"""
        [[policy]]
        use = "insults"
        action = "flag"
        topics = ["support"]

        [[policy]]
        use = "{OWN}"
        share = 0.9
        """.encode()
    )
    text = "YOU ARE AN IDIOT"
    there = supervisor.examine(case(text, topic="support"))
    elsewhere = supervisor.examine(case(text, topic="math"))
    assert [f.policy for f in there.findings] == ["insults(flag)", "shouting(share=0.9)"]
    assert [f.policy for f in elsewhere.findings] == ["shouting(share=0.9)"]
    assert there.flags == ("an insult", "it shouts")


@pytest.mark.parametrize("use", list(BUILT_IN))
def test_every_built_in_policy_can_be_named(use: str) -> None:
    """With what it needs, and with any action."""
    needs = 'answers = ["x"]' if use == "allow_list" else ""
    supervisor = parse_supervision(f'[[policy]]\nuse = "{use}"\naction = "reject"\n{needs}'.encode())
    assert supervisor.entries[0].policy.name.startswith(f"{use}(")
    assert supervisor.entries[0].policy.name.endswith("reject)")


def test_without_a_file_the_built_in_list_is_asked() -> None:
    """All that reject something, and nothing that stops a topic."""
    assert len(built_in_supervisor().entries) == len(DEFAULT)
    assert not any(rule().action == "stop_topic" for rule in DEFAULT)


@pytest.mark.parametrize(
    "text,told",
    [
        ("policy = 3", "names no policy; each is a table [[policy]]"),
        ("", "names no policy"),
        ("policy = []", "names no policy"),
        ("policy = [3]", "policy 1: needs use, a built-in or module:callable; there are: allow_list, score_sanity, "),
        ("[[policy]]\nuse = 3", "policy 1: needs use"),
        ("[[policy]]\nuse = ''", "policy 1: needs use"),
        ("[[policy]]\nuse = 'bias'\ntopics = ['math', 3]", "policy 1 (bias): topics: Expected a list of names"),
        ("[[policy]]\nuse = 'bias'\ntopics = ['']", "policy 1 (bias): topics: Expected a list of names"),
        ("[[policies]]\nuse = 'bias'", "unknown field policies; there are: policy"),
        (
            "[[policy]]\nuse = 'bias'\n[[policy]]\naction = 'flag'",
            "policy 2: needs use, a built-in or module:callable; ",
        ),
        ("[[policy]]\nuse = 'biass'", "policy 1 (biass): use: 'biass' is no built-in policy, and no module:callable; "),
        (
            "[[policy]]\nuse = 'bias'\nacton = 'flag'",
            "policy 1 (bias): unknown field acton; there are: use, topics, action",
        ),
        ("[[policy]]\nuse = 'bias'\naction = 'delete'", "policy 1 (bias): action: 'delete' is none of accept, flag,"),
        ("[[policy]]\nuse = 'bias'\ntopics = 'math'", "policy 1 (bias): topics: Expected a list of names"),
        ("[[policy]]\nuse = 'bias'\ncap = 0.5", 'policy 1 (bias): cap: it is for action = "cap"'),
        ("[[policy]]\nuse = 'bias'\naction = 'cap'\ncap = 2.0", "policy 1 (bias): cap: Expected `float` <= 1.0"),
        ("[[policy]]\nuse = 'bias'\naction = 'cap'\ncap = nan", "policy 1 (bias): cap: "),
        ("[[policy]]\nuse = 'bias'\npause_s = inf", "policy 1 (bias): pause_s: "),
        ("[[policy]]\nuse = 'budget'\nshare = 'x'", "policy 1 (budget): share: Expected `float`, got `str`"),
        ("[[policy]]\nuse = 'allow_list'", "policy 1 (allow_list): needs answers"),
        (
            "[[policy]]\nuse = 'answer_format'\npattern = '('",
            "policy 1 (answer_format): pattern: no regular expression: missing )",
        ),
        (
            "[[policy]]\nuse = 'safety'\nclassifier = 'no.such:thing'",
            "policy 1 (safety): classifier='no.such:thing': No module named 'no'",
        ),
        ("[[policy]]\nuse = 'no.such:thing'", "policy 1 (no.such:thing): use='no.such:thing': No module named 'no'"),
        (f"[[policy]]\nuse = '{OWN}'\ncolour = 1", f"policy 1 ({OWN}): {OWN} cannot be made: TypeError: "),
        (f"[[policy]]\nuse = '{__name__}:nothing'", "gave str, which has no `name` or no `examine`"),
        ("[[policy", "not TOML: "),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    """And with what would be right."""
    path = tmp_path / "supervision.toml"
    path.write_text(text)
    with pytest.raises(RefusedError) as refused:
        read_supervision(path)
    assert str(refused.value).startswith("supervision.toml: ")
    assert told.replace("`", "") in str(refused.value).replace("`", "")


def test_a_refusal_is_written_in_the_words_of_the_file() -> None:
    """Without the signs of whatever has read it."""
    for text, told in (
        (b"[[policy]]\nuse = 'budget'\nshare = 'x'", "policy 1 (budget): share: Expected float, got str"),
        (b"[[policy]]\nuse = 'allow_list'", "policy 1 (allow_list): needs answers"),
        (b"\xff", "not UTF-8: invalid start byte at byte 0"),
    ):
        with pytest.raises(RefusedError) as refused:
            parse_supervision(text)
        assert str(refused.value) == told


def test_a_file_that_is_not_there_is_refused_with_the_setting(tmp_path: Path) -> None:
    """The name is the only thing that can be wrong."""
    with pytest.raises(RefusedError, match=r"gone\.toml: No such file or directory; AUREON_SUPERVISION names it"):
        read_supervision(tmp_path / "gone.toml")
