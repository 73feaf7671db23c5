"""route: which models on which nodes are asked in this round, and what.

    all        every model that serves the topic
    best-N     the N that do best on the topic, a little for their price; one more in each later round
    cascade    the cheap ones first, dearer ones only while agreement is short

How well a model does is drawn from what is known of it (Thompson sampling), so that what is little known is tried, and
now and then one is asked though it does badly, or all are: a node that recovers is found again. The draw depends on the
task alone. Models on nodes that are down, or whose circuit breaker is open, come last, but for one try a second that
finds out whether they are back. Those that the supervision root keeps out of a topic are asked in a share of the
rounds, to learn whether they are fit again.
"""

import hashlib
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from flows.affinity import Affinities
from flows.budget import Purse, expected
from flows.items import Routed, Work
from flows.judgement import BUDGET_SPENT
from flows.lane import Message
from flows.orders import Orders
from flows.votes import Name
from schemas.errors import RefusedError
from schemas.node import Call, NodeCapabilities, NodeHealth, NodeState
from schemas.task import TESTS, Allowance, Origin, PayloadView, PromptMessage, TaskDescriptor

EXPLORED = 0.08
"""Of the rounds of `best-N`: in these one of the other models is asked in place of the last of the best."""
AUDITED = 0.03
LEARNING = 15
"""Of the rounds of a cascade, and how many first ones of a topic: in these all models are asked, to learn of each. A
cascade that always stops early never hears what the models it spared would have said."""
PRICE_COUNTS = 0.05
"""The dearest model of a topic has to do so much better than one for nothing, to be preferred."""
KNOWN_WRONG = 0.15
"""A model whose quality is expected to be below is asked to learn of it, and not to decide anything."""
PRESUMED_BEST = 0.9
"""How often the dearest node of a cascade is expected to be right, where its file says nothing."""
PROBED_EVERY_S = 1.0
QUARANTINE_PROBES = 0.1
"""Of the rounds: in these a node that the root keeps out of the topic is asked besides, to learn whether it is back."""
MAX_ROUTING = 300
"""Characters of the reason that is kept with a decision."""
MAX_TOPICS = 10_000
"""Topics are the users' to invent; do not remember them without bound."""

TOPIC_STOPPED = "topic_stopped"
"""The reason of a task that ended because supervision has stopped its topic for a while."""

Render = Callable[[str, PayloadView, str | None, str], tuple[PromptMessage, ...]]
"""Writes a question as a chat: (topic, payload, answer of the round before, what was wrong with it)."""


class Strategy(Struct, frozen=True, gc=False):
    """How the models of a round are chosen."""

    kind: Literal["all", "best", "cascade"] = "all"
    n: int = 0
    """How many are asked at first."""
    agree: float = 1.0
    """From which confidence on a cascade stops."""


def read_strategy(text: str, first: int, agree: float) -> Strategy:
    """Read the setting `routing`.

    Args:
        text: `all`, `best-N` or `cascade`.
        first: how many models a cascade asks at first.
        agree: from which confidence on a cascade stops.

    Raises:
        RefusedError: it is none of these.
    """
    kind, _, number = text.partition("-")
    if kind == "best" and re.fullmatch(r"[1-9]\d{0,5}", number, re.ASCII):
        return Strategy("best", int(number))
    if text == "cascade":
        return Strategy("cascade", first, agree)
    if text != "all":
        raise RefusedError(f"AUREON_ROUTING={text!r}: expected all, best-N with N from 1 on, or cascade")
    return Strategy()


class _Offer(Struct, frozen=True, gc=False):
    """One model that serves a topic."""

    name: Name
    node: NodeCapabilities
    place: int
    """In the order of the nodes' file."""

    def __str__(self) -> str:
        return f"{self.name[0]}/{self.name[1]}"


class _Serving(Struct, frozen=True, gc=False):
    """Those that serve a topic as the nodes are now."""

    ready: tuple[_Offer, ...]
    troubled: tuple[_Offer, ...]
    """On nodes that are down, or with an open circuit breaker."""
    cold: frozenset[Name]
    """Their node would have to load them first."""
    quarantined: tuple[_Offer, ...]
    every: "_Choice"
    """That of the strategy `all`."""


class _Choice(Struct, frozen=True, gc=False):
    """What a strategy would ask."""

    now: tuple[_Offer, ...]
    later: tuple[_Offer, ...]
    escalates: bool
    routing: str


class Router:
    """Chooses the calls of a round; used by several threads.

    Args:
        nodes: gives what there is to ask, and a number that changes when it does.
        verifiers: the names of the registered checks.
        affinities: what is known of the models.
        strategy: how to choose.
        states: how the nodes are, by name; the same object as long as nothing has changed.
        render: writes a question as a chat; without it, calls carry it as one text.
        orders: tells which nodes the supervision root keeps out of a topic.
    """

    def __init__(
        self,
        nodes: Callable[[], tuple[int, Sequence[NodeCapabilities]]],
        verifiers: Collection[str],
        affinities: Affinities | None = None,
        strategy: Strategy | None = None,
        states: Callable[[], Mapping[str, NodeState]] | None = None,
        render: Render | None = None,
        stopped: Callable[[str, float], str] | None = None,
        orders: Orders | None = None,
    ) -> None:
        self._get_nodes = nodes
        self._orders = orders
        self._orders_version = 0
        self._verifiers = verifiers
        self._affinities = affinities or Affinities()
        self._strategy = strategy or Strategy()
        self._get_states = states
        self._render = render
        self._stopped = stopped
        self._version: int | None = None
        self._nodes: tuple[NodeCapabilities, ...] = ()
        self._states: Mapping[str, NodeState] = {}
        self._by_topic: dict[str, _Serving] = {}
        self._probed: dict[Name, float] = {}
        """When a model in trouble was last asked whether it is back."""
        self._begun: dict[str, int] = {}
        """Of a cascade: how many rounds of a topic were audited because it was new."""

    def route(self, message: Message, handed_at: float, allowance: Allowance | None = None) -> Routed:
        """Name the calls of one round, no more than the allowance pays for."""
        if message.verdict is not None:
            return Routed(message, handed_at, ())
        work: Work = message.body
        task = work.task
        view = work.view
        refusal = self._unanswerable(view) if view.verifier is not None else None
        if refusal is None and self._stopped is not None and (why := self._stopped(task.topic, handed_at)):
            refusal = TOPIC_STOPPED, why
        serving = self._serving(task.topic)
        if refusal is None and not serving.ready and not serving.troubled:
            refusal = "no_node", self._nobody(task.topic)
        if refusal is not None:
            return Routed(message, handed_at, (), refusal=refusal)
        origin = task.origin
        chat: tuple[PromptMessage, ...] = ()
        if self._render is not None:
            answer, critique = (origin.answer, origin.critique) if origin is not None else (None, "")
            chat = self._render(task.topic, view, answer, critique)
        write = _Writer(task, view, chat, origin)
        choice = self._choose(serving, task, write, handed_at)
        if serving.ready and serving.troubled:
            choice = self._probing(choice, serving.troubled, handed_at)
        if serving.quarantined:
            choice = _examining(choice, serving.quarantined, task)
        if allowance is not None:
            kept = _within(choice, allowance, write)
            if not kept.now:
                what = _cheapest(choice, write)
                return Routed(message, handed_at, (), allowance=allowance, refusal=(BUDGET_SPENT, what))
            choice = kept
        return Routed(
            message,
            handed_at,
            tuple([write.call(offer.name) for offer in choice.now]),
            tuple([write.call(offer.name) for offer in choice.later]),
            choice.escalates,
            choice.routing,
            allowance,
        )

    def _unanswerable(self, view: PayloadView) -> tuple[str, str] | None:
        """Say why no answer could ever be verified: reason and detail."""
        if view.verifier not in self._verifiers:
            known = ", ".join(sorted(self._verifiers))
            return "unknown_verifier", f"{view.verifier!r} is none of {known}; name it in AUREON_VERIFIERS"
        if view.verifier == TESTS and not view.tests:
            detail = "the verifier `tests` needs the program that tests the answer - at `$.payload.tests`"
            return "no_tests", detail
        return None

    # -- what there is ---------------------------------------------------------------------------------------------

    def _serving(self, topic: str) -> _Serving:
        version, nodes = self._get_nodes()
        if version != self._version:
            self._nodes = tuple(nodes)
            self._affinities.declare(self._nodes)
            self._by_topic = {}
            self._version = version
        if self._get_states is not None:
            states = self._get_states()
            if states is not self._states:
                self._states, self._by_topic = states, {}
        if self._orders is not None and self._orders.version != self._orders_version:
            self._orders_version, self._by_topic = self._orders.version, {}
        found = self._by_topic.get(topic)
        if found is None:
            found = self._sort(topic)
            if len(self._by_topic) < MAX_TOPICS:
                self._by_topic[topic] = found
        return found

    def _sort(self, topic: str) -> _Serving:
        ready, troubled, quarantined, cold, why = [], [], [], set(), []
        kept_out = self._orders.quarantined(topic) if self._orders is not None else ()
        place = 0
        for node in self._nodes:
            if not node.serves(topic):
                continue
            state = self._states.get(node.node)
            for model in node.models:
                place += 1
                offer = _Offer((node.node, model), node, place)
                if node.node in kept_out:
                    quarantined.append(offer)
                elif state is None:
                    ready.append(offer)
                elif state.health == NodeHealth.UNHEALTHY or model in state.open:
                    troubled.append(offer)
                    why.append(f"{offer} ({'unhealthy' if state.health == NodeHealth.UNHEALTHY else 'breaker open'})")
                else:
                    ready.append(offer)
                if state is not None and model not in state.loaded and (state.loaded or node.load_cost):
                    cold.add(offer.name)
        if not ready and not troubled:  # whatever they are worth, they are all there is
            ready, quarantined = quarantined, []
        text = f"all {len(ready)}: {_named(ready)}" if ready else f"nobody else serves: {_named(troubled)}"
        aside = "; reserve " + ", ".join(why) if ready and why else ""
        aside += f"; quarantined: {_named(quarantined)}" if quarantined else ""
        now, later = (ready, troubled) if ready else (troubled, [])
        every = _Choice(tuple(now), tuple(later), escalates=False, routing=_short(text, aside))
        return _Serving(tuple(ready), tuple(troubled), frozenset(cold), tuple(quarantined), every)

    def _nobody(self, topic: str) -> str:
        known = ", ".join(sorted({t for n in self._nodes for t in n.topics}))
        return f"no node serves the topic {topic!r}; there are nodes for: {known}"

    # -- strategies ------------------------------------------------------------------------------------------------

    def _choose(self, serving: _Serving, task: TaskDescriptor, write: "_Writer", now: float) -> _Choice:
        kind = self._strategy.kind
        if kind == "all" or len(serving.ready) < 2:
            return serving.every
        costs = {}
        for offer in serving.ready:
            cost = expected(offer.node, write.call(offer.name))[1]
            costs[offer.name] = cost + offer.node.load_cost if offer.name in serving.cold else cost
        chances = self._affinities.chances(task.topic, costs, now)
        seed = hashlib.blake2b(f"{task.topic}\0{task.task_id}\0{task.attempt}".encode(), digest_size=8).digest()
        draw = random.Random(seed)  # noqa: S311 - a replay is to draw the same
        if kind == "best":
            return self._best(serving, task.round_index, costs, chances, draw)
        return self._cascade(serving, task.topic, costs, chances, draw)

    def _probing(self, choice: _Choice, troubled: Sequence[_Offer], now: float) -> _Choice:
        """Ask one of those in trouble, if it is time; where not all are asked, in place of one that then is a reserve.

        The call costs nothing while its circuit breaker says no.
        """
        for offer in troubled:
            if now - self._probed.get(offer.name, 0.0) < PROBED_EVERY_S:
                continue
            self._probed[offer.name] = now
            later = tuple([o for o in choice.later if o is not offer])
            spared = () if self._strategy.kind == "all" else choice.now[-1:]
            kept = choice.now[: len(choice.now) - len(spared)]
            text = _short(choice.routing, f"; is {offer} back?")
            return _Choice((*kept, offer), (*spared, *later), choice.escalates, text)
        return choice

    def _best(
        self,
        serving: _Serving,
        round_index: int,
        costs: Mapping[Name, float],
        chances: Sequence[tuple[float, float]],
        draw: random.Random,
    ) -> _Choice:
        dearest = max(costs.values()) or 1.0
        ranked = []
        for offer, (right, wrong) in zip(serving.ready, chances, strict=True):
            value = draw.betavariate(right, wrong) * offer.node.weight - PRICE_COUNTS * costs[offer.name] / dearest
            ranked.append((-value, offer.name in serving.cold, offer.place, offer))
        ranked.sort(key=lambda r: r[:3])
        order = [r[3] for r in ranked]
        qualities = {o.name: r / (r + w) for o, (r, w) in zip(serving.ready, chances, strict=True)}
        useful = sum(q >= KNOWN_WRONG for q in qualities.values())
        n = max(self._strategy.n, min(self._strategy.n + round_index, useful))
        explored = ""
        if n < len(order) and draw.random() < EXPLORED:
            swapped = draw.randrange(n, len(order))
            order[n - 1], order[swapped] = order[swapped], order[n - 1]
            explored = f"; {order[n - 1]} to learn of it"
        asked, later = order[:n], order[n:]
        text = f"best-{n} of {len(order)}: {_named(asked, qualities)}"
        aside = explored + (f"; reserve {_named(later, qualities)}" if later else "") + _troubles(serving)
        return _Choice(tuple(asked), (*later, *serving.troubled), escalates=False, routing=_short(text, aside))

    def _cascade(
        self,
        serving: _Serving,
        topic: str,
        costs: Mapping[Name, float],
        chances: Sequence[tuple[float, float]],
        draw: random.Random,
    ) -> _Choice:
        qualities = {o.name: r / (r + w) for o, (r, w) in zip(serving.ready, chances, strict=True)}
        ladder = sorted(
            serving.ready,
            key=lambda o: (costs[o.name], o.name in serving.cold, -qualities[o.name] * o.node.weight, o.place),
        )
        audited = draw.random() < AUDITED
        learning = not audited and self._is_new(topic)
        if audited or learning:
            why = "to learn of each" if audited else "the topic is new"
            text = f"cascade, all {len(ladder)}, {why}: {_named(ladder, qualities)}"
            return _Choice(tuple(ladder), serving.troubled, escalates=False, routing=_short(text, _troubles(serving)))
        useful = [o for o in ladder if qualities[o.name] >= KNOWN_WRONG] or ladder
        useless = [o for o in ladder if o not in useful]
        first, later = useful[: self._strategy.n], useful[self._strategy.n :]
        text = f"cascade, {len(first)} of {len(ladder)}: {_named(first, qualities)}"
        aside = f"; then {_named(later, qualities)}" if later else ""
        aside += f"; wrong here: {_named(useless, qualities)}" if useless else ""
        routing = _short(text, aside + _troubles(serving))
        return _Choice(tuple(first), (*later, *serving.troubled), escalates=True, routing=routing)

    def _is_new(self, topic: str) -> bool:
        if self._affinities.seen(topic) >= LEARNING:
            return False
        begun = self._begun.get(topic, 0)
        if begun >= LEARNING:
            return False
        if topic in self._begun or len(self._begun) < MAX_TOPICS:
            self._begun[topic] = begun + 1
        return True


# -- what it costs -------------------------------------------------------------------------------------------------


def _within(choice: _Choice, allowance: Allowance, write: "_Writer") -> _Choice:
    """Keep what can be paid: if not all, the cheapest first; of the reserves, each that could be paid by itself.

    Where those that a strategy would ask are too dear, reserves go in their place.

    A reserve is charged when it is asked, and by then the calls before have taken what they took, which may be less.
    """
    costs = {o.name: expected(o.node, write.call(o.name)) for o in (*choice.now, *choice.later)}
    purse, paid = Purse(allowance), set[Name]()
    for offer in sorted(choice.now, key=lambda o: (costs[o.name][1], costs[o.name][0])):
        if not purse.lacks(*costs[offer.name]):
            purse.take(*costs[offer.name])
            paid.add(offer.name)
    for offer in choice.later:
        if len(paid) < len(choice.now) and not purse.lacks(*costs[offer.name]):
            purse.take(*costs[offer.name])
            paid.add(offer.name)
    now = tuple([o for o in (*choice.now, *choice.later) if o.name in paid])
    whole = Purse(allowance)
    more = allowance.calls is None or len(now) < allowance.calls
    later = tuple([o for o in choice.later if more and o.name not in paid and not whole.lacks(*costs[o.name])])
    spared = [o for o in choice.now if o.name not in paid]
    routing = _short(choice.routing, f"; not in the budget: {_named(spared)}") if spared else choice.routing
    return _Choice(now, later, choice.escalates, routing)


def _examining(choice: _Choice, quarantined: Sequence[_Offer], task: TaskDescriptor) -> _Choice:
    """In a share of the rounds ask one of those in quarantine besides; which ones, depends on the task alone."""
    seed = f"quarantine\0{task.topic}\0{task.task_id}\0{task.attempt}"
    drawn = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest()) / 2**64
    if drawn >= QUARANTINE_PROBES * len(quarantined):
        return choice
    offer = quarantined[int(drawn / QUARANTINE_PROBES)]
    text = _short(choice.routing, f"; is {offer} fit again?")
    return _Choice((*choice.now, offer), choice.later, choice.escalates, text)


def _cheapest(choice: _Choice, write: "_Writer") -> str:
    every = (*choice.now, *choice.later)
    cost, tokens, name = min([(*reversed(expected(o.node, write.call(o.name))), str(o)) for o in every])
    return f"what is left does not pay for the cheapest call: {name}, up to {tokens:,} tokens and {cost:.6g} of money"


# -- words ---------------------------------------------------------------------------------------------------------


def _named(offers: Sequence[_Offer], qualities: Mapping[Name, float] | None = None) -> str:
    if qualities is None:
        return ", ".join([str(o) for o in offers])
    return ", ".join([f"{o} {qualities[o.name]:.2f}" for o in offers])


def _troubles(serving: _Serving) -> str:
    text = f"; last, for trouble: {_named(serving.troubled)}" if serving.troubled else ""
    return text + (f"; quarantined: {_named(serving.quarantined)}" if serving.quarantined else "")


def _short(text: str, aside: str) -> str:
    whole = text + aside
    return whole if len(whole) <= MAX_ROUTING else whole[: MAX_ROUTING - 1] + "…"


class _Writer:
    """Writes the calls of one round."""

    __slots__ = ("_chat", "_kind", "_previous", "_prompt", "_task")

    def __init__(
        self, task: TaskDescriptor, view: PayloadView, chat: tuple[PromptMessage, ...], origin: Origin | None
    ) -> None:
        self._task = task
        self._chat = chat
        self._prompt, self._kind = view.text, view.answer_kind.value
        self._previous = origin.answer if origin is not None else None

    def call(self, name: Name) -> Call:
        """Ask one model."""
        task = self._task
        return Call(
            task.topic,
            task.logical_id,
            task.generation,
            task.round_index,
            task.attempt,
            name[0],  # node
            name[1],  # model
            0,  # sample
            self._prompt,
            self._kind,
            self._chat,
            self._previous,
        )
