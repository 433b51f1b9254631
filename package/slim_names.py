"""Gives the local variables of functions short names.

Only those that nothing outside can know: no parameter (callers may name it), nothing imported, no function (tracebacks
show its name), nothing in a function that has a class in it or asks for its variables by name, nothing in f-strings.
Within one function, with all that is nested in it, the same name becomes the same short one, and no short one is in use
there already: nothing can come to mean something else.
"""

import ast
import builtins
import keyword
import re
import string
import symtable

from package.slim_cuts import alike

LETTERS = string.ascii_lowercase
SHORT = [*LETTERS, *(one + other for one in LETTERS for other in LETTERS)]
# With these, a variable's name can be found out when the program runs.
CLOSING = {"ClassDef", "Match", "TypeAlias"}
CURIOUS = {"locals", "vars", "dir", "eval", "exec", "globals"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
OF_ITS_OWN = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def shortened(text: bytes) -> bytes:
    """`text`, whose statements stand on one line each, with short names for local variables."""
    lines = text.split(b"\n")
    edits = []
    for function in outermost(ast.parse(text)):
        found = Names(function, lines)
        for name, short in found.renamed().items():
            edits += [(place, name.encode(), short.encode()) for place in found.places[name]]
    for (row, at), old, new in sorted(edits, reverse=True):
        lines[row - 1] = lines[row - 1][:at] + new + lines[row - 1][at + len(old) :]
    return b"\n".join(lines)


def outermost(node: ast.AST) -> "list[ast.FunctionDef | ast.AsyncFunctionDef]":
    """The functions that are in no other one, in order."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            found.append(child)
        else:
            found += outermost(child)
    return found


class Names:
    """The names in a function and in all that is nested in it.

    places: {name: where it stands}. fixed: those that keep theirs; used: all of them."""

    def __init__(self, function: "ast.FunctionDef | ast.AsyncFunctionDef", lines: "list[bytes]") -> None:
        self._lines = lines
        self.places: dict[str, list[tuple[int, int]]] = {}
        self.fixed: set[str] = set()
        self._closed = False  # nothing in it is renamed
        self._body(function, frozenset())

    def renamed(self) -> "dict[str, str]":
        """{name: short one}, those that are used most first."""
        if self._closed:
            return {}
        wanted = [name for name in self.places if name not in self.fixed and not name.startswith("__")]
        taken = {*self.places, *self.fixed, *dir(builtins), *keyword.kwlist}
        free = (short for short in SHORT if short not in taken)
        found = {}
        for name in sorted(wanted, key=lambda name: (-len(self.places[name]), self.places[name])):
            if len(name) > 2:
                found[name] = next(free)
        return found

    def _function(self, node: "ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda", known: "frozenset[str]") -> None:
        """A nested one: what stands in its head belongs to what is around it."""
        heads = [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]
        if not isinstance(node, ast.Lambda):
            heads += node.decorator_list + ([node.returns] if node.returns is not None else [])
            self.fixed.add(node.name)
        for head in heads:
            self._visit(head, known)
        self._body(node, known)

    def _body(self, node: "ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda", known: "frozenset[str]") -> None:
        given = node.args
        for one in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]:
            if one is not None:
                self.fixed.add(one.arg)
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        known = known | {name for statement in body for name in bound(statement)}
        for statement in body:
            self._visit(statement, known)

    def _comprehension(self, node: ast.AST, known: "frozenset[str]") -> None:
        """A scope of its own, but for the first thing that it goes over."""
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]  # it has some
        self._visit(generators[0].iter, known)
        inside = known | {name for one in generators for name in bound(one.target)}
        for number, one in enumerate(generators):
            for part in ([one.iter] if number else []) + [one.target, *one.ifs]:
                self._visit(part, inside)
        for member in ("key", "value", "elt"):
            if hasattr(node, member):
                self._visit(getattr(node, member), inside)

    def _visit(self, node: ast.AST, known: "frozenset[str]") -> None:
        if isinstance(node, ast.Name):
            self._name(node.id, (node.lineno, node.col_offset), known)
            self._closed = self._closed or node.id in CURIOUS
        elif isinstance(node, (*FUNCTIONS, ast.Lambda)):
            self._function(node, known)
        elif isinstance(node, OF_ITS_OWN):
            self._comprehension(node, known)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.fixed.update((one.asname or one.name).split(".")[0] for one in node.names)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            self.fixed.update(node.names)
        elif isinstance(node, ast.JoinedStr):  # older Pythons do not tell where in it
            self.fixed.update(one.id for one in ast.walk(node) if isinstance(one, ast.Name))
        else:
            self._closed = (
                self._closed or isinstance(node, ast.ClassDef) or type(node).__name__ in ("Match", "TypeAlias")
            )
            if isinstance(node, ast.NamedExpr):  # in a comprehension, it is of the function around it
                self.fixed.add(node.target.id)
            if isinstance(node, ast.ExceptHandler) and node.name:
                self._name(node.name, self._handler(node.lineno, node.col_offset, node.name), known)
            for child in ast.iter_child_nodes(node):
                self._visit(child, known)

    def _name(self, name: str, place: "tuple[int, int]", known: "frozenset[str]") -> None:
        self.places.setdefault(name, []).append(place)
        if name not in known:  # it is found outside
            self.fixed.add(name)

    def _handler(self, row: int, at: int, name: str) -> "tuple[int, int]":
        """Where the name stands in `except ... as name:`: no tree says so."""
        found = re.compile(rb"\bas (" + name.encode() + rb"):").search(self._lines[row - 1], at)
        if found is None:
            self.fixed.add(name)
            return row, at
        return row, found.start(1)


def bound(node: ast.AST) -> "set[str]":
    """The names that `node` binds in the scope it stands in."""
    if isinstance(node, (*FUNCTIONS, ast.Lambda, *OF_ITS_OWN)):
        return set()
    found = {name for child in ast.iter_child_nodes(node) for name in bound(child)}
    if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
        found.add(node.id)
    if isinstance(node, ast.ExceptHandler) and node.name:
        found.add(node.name)
    return found


def same_names(before: bytes, after: bytes) -> bool:
    """Is `after` the same program as `before`, line by line, but for names of functions' own variables, and do all
    names mean what they meant? By what Python's own tables of symbols say of both."""
    one, other = ast.parse(before), ast.parse(after)
    known: dict[tuple[str, int], dict[str, str]] = {}
    for mine, theirs in zip(outermost(one), outermost(other)):
        names = counterparts(mine, theirs)
        if len(set(names.values())) != len(names):
            return False  # two became one
        known[(mine.name, mine.lineno)] = names
    tables = [symtable.symtable(text.decode(), "source", "exec") for text in (before, after)]
    return alike(one, other) and scopes_alike(tables[0], tables[1], None, known)


def counterparts(mine: ast.AST, theirs: ast.AST) -> "dict[str, str]":
    """{name in `mine`: the one in the same place of `theirs`}; writes these into `mine`, where they are the same each
    time."""
    found: dict[str, str] = {}
    for one, other in zip(ast.walk(mine), ast.walk(theirs)):
        member = {ast.Name: "id", ast.ExceptHandler: "name"}.get(type(one), "")
        name, new = getattr(one, member, None), getattr(other, member, None)
        if isinstance(name, str) and isinstance(new, str) and found.setdefault(name, new) == new:
            setattr(one, member, new)
    return found


def scopes_alike(
    one: symtable.SymbolTable,
    other: symtable.SymbolTable,
    names: "dict[str, str] | None",
    known: "dict[tuple[str, int], dict[str, str]]",
) -> bool:
    """Are the names of two scopes, and of those in them, of the same kind each? names: the counterparts in the function
    around, None outside of functions. known: those of each outermost function."""
    if (str(one.get_type()), one.get_name()) != (str(other.get_type()), other.get_name()):
        return False
    if names is None and isinstance(one, symtable.Function):
        names = known.get((one.get_name(), one.get_lineno()), {})
    of_it = names or {}
    mine = {of_it.get(symbol.get_name(), symbol.get_name()): kind(symbol) for symbol in one.get_symbols()}
    if mine != {symbol.get_name(): kind(symbol) for symbol in other.get_symbols()}:
        return False
    for symbol in one.get_symbols():
        if of_it.get(symbol.get_name(), symbol.get_name()) != symbol.get_name() and not is_own(symbol):
            return False
    mine_in, theirs_in = one.get_children(), other.get_children()
    return len(mine_in) == len(theirs_in) and all(
        scopes_alike(child, counterpart, names, known) for child, counterpart in zip(mine_in, theirs_in)
    )


def kind(symbol: symtable.Symbol) -> "tuple[bool, ...]":
    """All that Python knows of a name, but the name."""
    one = symbol
    return (one.is_global(), one.is_local(), one.is_free(), one.is_parameter(), one.is_imported(), one.is_assigned(),
            one.is_referenced(), one.is_declared_global(), one.is_namespace())  # fmt: skip


def is_own(symbol: symtable.Symbol) -> bool:
    """A variable of the function, or of one around it, that nobody outside can name."""
    return (symbol.is_local() or symbol.is_free()) and not (
        symbol.is_parameter() or symbol.is_global() or symbol.is_imported() or symbol.is_namespace()
    )
