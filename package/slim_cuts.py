"""Finds what of a Python source does not run: docstrings, comments, annotations, what is for the type checker."""

import ast
import io
import tokenize

# Decorators and base classes that read annotations when the program runs: such a class keeps its own.
READERS = ("dataclass", "NamedTuple", "TypedDict")


def without(text: bytes, cuts: "list[tuple[int, int, bytes]]") -> bytes:
    """`text` with each cut (start, end, replacement) made. Its line ends stay."""
    parts, done = [], 0
    for start, end, replacement in sorted(cuts):
        if start >= done:
            parts += [text[done:start], replacement, b"\n" * text.count(b"\n", start, end)]
            done = end
    return b"".join([*parts, text[done:]])


class Finder(ast.NodeVisitor):
    """Finds what does not run. cuts: (start, end, replacement), in bytes of the text."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._lines = [0]
        for line in io.BytesIO(text):
            self._lines.append(self._lines[-1] + len(line))
        self.cuts = [self._comment(token) for token in tokenize.tokenize(io.BytesIO(text).readline)
                     if token.type == tokenize.COMMENT and token.start != (1, 0)]  # fmt: skip

    def _comment(self, token: tokenize.TokenInfo) -> "tuple[int, int, bytes]":
        start, end = self._lines[token.start[0] - 1 : token.start[0] + 1]
        before = self._text[start:end].decode()[: token.start[1]]
        return start + len(before.rstrip().encode()), start + len((before + token.string).encode()), b""

    def _start(self, node: "ast.expr | ast.stmt | ast.arg") -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: "ast.expr | ast.stmt") -> int:
        return self._lines[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)  # the parser always gives both

    def _docstring(self, node: "ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef") -> None:
        if has_docstring(node):
            alone = len(node.body) == 1 and not isinstance(node, ast.Module)
            start = self._start(node.body[0])
            before = b"" if alone else self._text[self._text.rfind(b"\n", 0, start) + 1 : start]
            self.cuts.append((start - len(before), self._end(node.body[0]), b"pass" if alone else b""))

    def _annotation(self, start: int, annotation: ast.expr) -> None:
        end = self._end(annotation)
        if b"\n" not in self._text[start:end]:  # else the line might end where it must not
            self.cuts.append((start, end, b""))

    def visit_Module(self, node: ast.Module) -> None:
        """Its docstring."""
        self._docstring(node)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Its docstring; the rest, unless it reads its annotations."""
        self._docstring(node)
        if not reads_annotations(node):
            for member in declared(node):
                self.cuts.append((self._start(member) - member.col_offset, self._end(member), b""))
            self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        """What is only for the type checker."""
        if is_for_checking(node):
            self.cuts.append((self._start(node.body[0]), self._end(node.body[-1]), b"pass"))
            node.body = []
        self.generic_visit(node)

    def visit_FunctionDef(self, node: "ast.FunctionDef | ast.AsyncFunctionDef") -> None:
        """Docstring and annotations."""
        self._docstring(node)
        if node.returns is not None:
            signature = self._text[: self._text.rindex(b"->", 0, self._start(node.returns))]
            self._annotation(len(signature.rstrip()), node.returns)
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> None:
        """Its annotation."""
        if node.annotation is not None:
            self._annotation(self._start(node) + len(node.arg.encode()), node.annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Its annotation. One without a value stays: it can make a name local."""
        if node.value is not None:
            self._annotation(self._end(node.target), node.annotation)
            self.visit(node.value)


class Plain(ast.NodeTransformer):
    """A tree without what may be left out: what must be the same before and after."""

    def _body(self, node: ast.AST) -> ast.AST:
        if has_docstring(node):
            body: list[ast.stmt] = node.body  # type: ignore[attr-defined]  # it has one
            alone = len(body) == 1 and not isinstance(node, ast.Module)
            body[:1] = [ast.copy_location(ast.Pass(), body[0])] if alone else []
        return self.generic_visit(node)

    visit_Module = _body

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Without docstring and members that are only declared."""
        if reads_annotations(node):
            return node
        only_declared = declared(node)
        node.body = [statement for statement in node.body if statement not in only_declared]
        return self._body(node)

    def visit_FunctionDef(self, node: "ast.FunctionDef | ast.AsyncFunctionDef") -> ast.AST:
        """Without docstring and annotation."""
        node.returns = None
        return self._body(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Without annotation."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """A plain assignment, if it is one."""
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_If(self, node: ast.If) -> ast.AST:
        """Without what is only for the type checker."""
        if is_for_checking(node):
            node.body = [ast.copy_location(ast.Pass(), node.body[0])]
        return self.generic_visit(node)


def has_docstring(node: ast.AST) -> bool:
    """Does the module, class or function begin with one?"""
    body = getattr(node, "body", None)
    if not body or not isinstance(body, list) or not isinstance(body[0], ast.Expr):
        return False
    return isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str)


def reads_annotations(node: ast.ClassDef) -> bool:
    """Does the class use its annotations when the program runs?"""
    makers = [ast.dump(one) for one in [*node.decorator_list, *node.bases]]
    return any(f"'{reader}'" in maker for reader in READERS for maker in makers)


def declared(node: ast.ClassDef) -> "list[ast.stmt]":
    """Its members that have an annotation and no value; none if there is nothing else in it, which would not parse."""
    found = [one for one in node.body if isinstance(one, ast.AnnAssign) and one.value is None]
    return [] if len(found) == len(node.body) - has_docstring(node) else [*found]


def is_for_checking(node: ast.If) -> bool:
    """Is it `if TYPE_CHECKING:`?"""
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def alike(one: object, other: object) -> bool:
    """Are two trees the same, each statement on the same line?"""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if not isinstance(one, ast.AST) or not isinstance(other, ast.AST):
        return type(one) is type(other) and one == other
    if type(one) is not type(other):
        return False
    if isinstance(one, (ast.stmt, ast.excepthandler)) and one.lineno != other.lineno:  # type: ignore[attr-defined]
        return False
    return all(alike(getattr(one, name, None), getattr(other, name, None)) for name in one._fields)
