"""All the small changes to a module: of its syntax tree, one at a time.

    a comparison   a < b        =>  a <= b, a >= b           a statement   left out: a call, an assignment, a raise
    and, or        a and b      =>  a or b, a, b             return x      =>  return None
    not, a test    not a, if a  =>  a, if not a              break         =>  continue, and the other way
    a number       8            =>  9, 7; 0.5 => 1.0, 0.25   a call        two arguments change places; one with a name
    True           True         =>  False                                  is left out; min is max, any is all
    arithmetic     a + b        =>  a - b                    a decorator   left out
                                                             a slice       begins at the beginning, ends at the end

What no decision depends on is left as it is: the words of errors and of the log, annotations, docstrings, caches.
"""

import ast
from collections import Counter
from collections.abc import Iterator

from msgspec import Struct

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_RENAMED = {"min": "max", "max": "min", "any": "all", "all": "any"}
_EITHER_WAY = {"min", "max", "hmac.compare_digest"}
_ASSERTING = "strict"
"""Of `zip`: it only says what is so anyway."""
_SPEED = {"lru_cache", "cached_property"}
_MOST_CHARACTERS = 110

Place = tuple[ast.AST, str, int | None]
"""(node, field, index in the field) of what is replaced."""
Change = tuple[Place, ast.AST, str]
"""Where, by what, and in words."""


class Mutant(Struct, frozen=True):
    """One change."""

    name: str
    """The function, and what is changed in it; it stays the same when lines move."""
    function: str
    """The outermost function that it is in; "" where it is done when the module is imported."""
    line: int
    alone: ast.Module
    """The changed function by itself, in its classes."""
    module: ast.Module
    """The changed module; both are good until the next mutant is asked for."""


def mutants(source: str) -> Iterator[Mutant]:
    """Make each change in turn; the next one takes it back."""
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    for (parent, field, index), new, words, scope, function, classes in list(_Walk().module(tree)):
        name = f"{scope or 'module'}: {words}"
        seen[name] += 1
        if seen[name] > 1:
            name += f" #{seen[name]}"
        old = _put(parent, field, index, new)
        line: int = getattr(old, "lineno", 0) or getattr(parent, "lineno", 0)
        inside = ".".join([*classes, function.name]) if function is not None else ""
        yield Mutant(name, inside, line, tree if function is None else _alone(function, classes), tree)
        _put(parent, field, index, old)


def functions(source: str) -> dict[str, ast.FunctionDef]:
    """The outermost functions of a module, by their qualified names."""
    found: dict[str, ast.FunctionDef] = {}

    def look(body: list[ast.stmt], before: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                found[before + node.name] = node
            elif isinstance(node, ast.ClassDef):
                look(node.body, f"{before}{node.name}.")

    look(ast.parse(source).body, "")
    return found


def _put(parent: ast.AST, field: str, index: int | None, new: ast.AST) -> ast.AST:
    if index is None:
        old: ast.AST = getattr(parent, field)
        setattr(parent, field, new)
    else:
        old = getattr(parent, field)[index]
        getattr(parent, field)[index] = new
    return old


def _alone(function: ast.FunctionDef, classes: tuple[str, ...]) -> ast.Module:
    bare = ast.FunctionDef(
        name=function.name, args=function.args, body=function.body, decorator_list=[], returns=None, type_comment=None
    )
    node: ast.stmt = ast.copy_location(bare, function)
    for name in reversed(classes):
        node = ast.copy_location(
            ast.ClassDef(name=name, bases=[], keywords=[], body=[node], decorator_list=[]), function
        )
    return ast.Module(body=[node], type_ignores=[])


Found = tuple[Place, ast.AST, str, str, ast.FunctionDef | None, tuple[str, ...]]


class _Walk:
    """Goes through a module, and finds what can be changed."""

    def __init__(self) -> None:
        self._scope: tuple[str, ...] = ()
        self._function: ast.FunctionDef | None = None
        self._classes: tuple[str, ...] = ()

    def module(self, tree: ast.Module) -> Iterator[Found]:
        for place, new, words, scope, function, classes in self._statements(tree, "body"):
            ast.fix_missing_locations(ast.copy_location(new, _node_at(place)))
            yield place, new, words, scope, function, classes

    def _found(self, change: Change) -> Found:
        return (*change, ".".join(self._scope), self._function, self._classes)

    def _statements(self, parent: ast.AST, field: str) -> Iterator[Found]:
        for index, statement in enumerate(getattr(parent, field)):
            place = (parent, field, index)
            if self._function is not None:
                for new, words in _changed_statement(statement):
                    yield self._found((place, new, words))
            yield from self._statement(statement)

    def _statement(self, node: ast.stmt) -> Iterator[Found]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from self._def(node)
        elif isinstance(node, ast.ClassDef):
            yield from self._class(node)
        elif not isinstance(node, ast.Raise | ast.Import | ast.ImportFrom) and not _is_silent(node):
            for field, value in ast.iter_fields(node):
                if field == "test":
                    yield from self._test((node, field, None))
                if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                    yield from self._statements(node, field)
                elif isinstance(value, list):
                    yield from self._several(node, field)
                elif isinstance(value, ast.expr) and field != "annotation":
                    yield from self._expression((node, field, None))

    def _several(self, node: ast.AST, field: str) -> Iterator[Found]:
        for index, part in enumerate(getattr(node, field)):
            if isinstance(part, ast.expr):
                yield from self._expression((node, field, index))
            elif isinstance(part, ast.ExceptHandler):
                yield from self._statements(part, "body")
            elif isinstance(part, ast.withitem):
                yield from self._expression((part, "context_expr", None))
            elif isinstance(part, ast.keyword) and part.arg != _ASSERTING:
                yield from self._expression((part, "value", None))
            elif isinstance(part, ast.comprehension):
                yield from self._expression((part, "iter", None))
                for number in range(len(part.ifs)):
                    yield from self._test((part, "ifs", number))
                    yield from self._expression((part, "ifs", number))

    def _def(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Found]:
        before = self._scope, self._function
        self._scope = (*self._scope, node.name)
        for index, decorator in enumerate(node.decorator_list):
            if self._function is None and not any(name in ast.unparse(decorator) for name in _SPEED):
                change = (node, "decorator_list", index), ast.parse("lambda f: f", mode="eval").body
                yield (*change, f"without @{ast.unparse(decorator)}", ".".join(self._scope), None, self._classes)
        named = [*node.args.posonlyargs, *node.args.args]
        yield from self._defaults(node.args, "defaults", named[len(named) - len(node.args.defaults) :])
        yield from self._defaults(node.args, "kw_defaults", node.args.kwonlyargs)
        if isinstance(node, ast.FunctionDef) and self._function is None:
            self._function = node
        yield from self._statements(node, "body")
        self._scope, self._function = before

    def _defaults(self, node: ast.arguments, field: str, names: list[ast.arg]) -> Iterator[Found]:
        for index, name in enumerate(names):
            for place, new, words, *where in self._expression((node, field, index)):
                yield place, new, f"{name.arg}={words.removeprefix(': ')}", *where  # type: ignore[misc]

    def _class(self, node: ast.ClassDef) -> Iterator[Found]:
        if any("Protocol" in ast.unparse(base) for base in node.bases):
            return
        before = self._scope, self._classes
        self._scope, self._classes = (*self._scope, node.name), (*self._classes, node.name)
        yield from self._statements(node, "body")
        self._scope, self._classes = before

    def _test(self, place: Place) -> Iterator[Found]:
        test = _node_at(place)
        if isinstance(test, ast.expr) and not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            negated = ast.UnaryOp(op=ast.Not(), operand=test)
            yield self._found((place, negated, f"if {_short(test)} => if not"))

    def _expression(self, place: Place) -> Iterator[Found]:
        node = _node_at(place)
        if not isinstance(node, ast.expr) or isinstance(node, ast.JoinedStr):
            return
        around = f"{_around(place[0])}: " if isinstance(node, ast.Constant) else ""
        for new, words in _changed(node):
            yield self._found((place, new, around + words))
        if isinstance(node, ast.IfExp):
            yield from self._test((node, "test", None))
        for field, value in ast.iter_fields(node):
            if isinstance(value, list):
                yield from self._several(node, field)
            elif isinstance(value, ast.expr):
                yield from self._expression((node, field, None))


def _around(parent: ast.AST) -> str:
    """What a constant stands in."""
    if isinstance(parent, ast.expr | ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.keyword):
        return _short(parent)
    return ""


def _node_at(place: Place) -> ast.AST:
    parent, field, index = place
    value = getattr(parent, field)
    node: ast.AST = value if index is None else value[index]
    return node


def _is_silent(node: ast.stmt) -> bool:
    """A docstring, a line for the log, `__slots__`."""
    if isinstance(node, ast.Expr):
        text = ast.unparse(node.value)
        return isinstance(node.value, ast.Constant) or text.startswith(("log.", "logging."))
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__"


def _changed_statement(node: ast.stmt) -> Iterator[tuple[ast.stmt, str]]:
    if _is_silent(node):
        return
    match node:
        case ast.Return(value=ast.expr() as value):
            if ast.unparse(value) not in {"None", "False", "''"}:
                yield ast.Return(value=ast.Constant(None)), f"{_short(node)} => return None"
        case ast.Break():
            yield ast.Continue(), "break => continue"
        case ast.Continue():
            yield ast.Break(), "continue => break"
            yield ast.Pass(), "without continue"
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in _COUNTED:
            yield ast.Pass(), f"without {_short(node)}"
            new = ast.AugAssign(target=target, op=_COUNTED[type(op)](), value=value)
            yield new, f"{_short(node)} => {_short(ast.fix_missing_locations(new))}"
        case ast.Raise() | ast.AugAssign() | ast.Expr() | ast.Return():
            yield ast.Pass(), f"without {_short(node)}"
        case (
            ast.Assign(targets=[ast.Attribute() | ast.Subscript() | ast.Tuple(), *_])
            | ast.AnnAssign(target=ast.Attribute() | ast.Subscript(), value=ast.expr())
            | ast.Delete(targets=[ast.Attribute() | ast.Subscript(), *_])
        ):
            yield ast.Pass(), f"without {_short(node)}"


def _changed(node: ast.expr) -> Iterator[tuple[ast.expr, str]]:
    old = _short(node)
    for new in _others(node):
        yield new, f"{old} => {_short(new)}"
    if isinstance(node, ast.BoolOp):
        is_and = isinstance(node.op, ast.And)
        yield (
            ast.BoolOp(op=ast.Or() if is_and else ast.And(), values=node.values),
            f"{old} => {'or' if is_and else 'and'}",
        )
        for index, value in enumerate(node.values):
            rest = [*node.values[:index], *node.values[index + 1 :]]
            yield (rest[0] if len(rest) == 1 else ast.BoolOp(op=node.op, values=rest)), f"{old} without {_short(value)}"
    elif isinstance(node, ast.Call):
        yield from _called_otherwise(node)
    elif isinstance(node, ast.Slice):
        if node.lower is not None:
            yield ast.Slice(lower=None, upper=node.upper, step=node.step), f"[{old}] from the beginning"
        if node.upper is not None:
            yield ast.Slice(lower=node.lower, upper=None, step=node.step), f"[{old}] to the end"


def _called_otherwise(node: ast.Call) -> Iterator[tuple[ast.expr, str]]:
    func, args, keywords = node.func, node.args, node.keywords
    for index in range(0 if ast.unparse(func) in _EITHER_WAY else len(args) - 1):
        pair = args[index : index + 2]
        if not any(isinstance(a, ast.Starred) for a in pair) and len({ast.unparse(a) for a in pair}) == 2:
            swapped = [*args[:index], args[index + 1], args[index], *args[index + 2 :]]
            words = f"{_short(node)}: {index + 1} and {index + 2} swapped"
            yield ast.Call(func=func, args=swapped, keywords=keywords), words
    for index, keyword in enumerate(keywords):
        if keyword.arg == _ASSERTING:
            continue
        words = f"{_short(func)}(…) without {keyword.arg}={_short(keyword.value)}"
        yield ast.Call(func=func, args=args, keywords=[*keywords[:index], *keywords[index + 1 :]]), words


def _others(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for index, op in enumerate(ops):
                for other in _COMPARED[type(op)]:
                    changed = [*ops[:index], other(), *ops[index + 1 :]]
                    yield ast.Compare(left=left, ops=changed, comparators=comparators)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(value=float() as value):
            yield ast.Constant(value * 2 or 1.0)
            yield ast.Constant(value / 2 or -1.0)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _COUNTED and not _is_text(left, right):
            yield ast.BinOp(left=left, op=_COUNTED[type(op)](), right=right)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _RENAMED:
            yield ast.Call(func=ast.Name(id=_RENAMED[name], ctx=ast.Load()), args=args, keywords=keywords)


def _is_text(*nodes: ast.expr) -> bool:
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str)) for n in nodes
    )


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
