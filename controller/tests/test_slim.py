"""Sources as packages install them: smaller, and the same program line by line."""

import os
import subprocess
import sys
import traceback

import pytest

from package import slim

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

LOCAL = "def f():\n    a: int\n    a = 1\n"
TUPLE = "class A(NamedTuple):\n    a: int = 1\n"
CASES = {
    "docstrings": ('"""A."""\n\ndef f():\n    """B\n    C."""\n    return 1\n', "\n\ndef f():\n\n\n return 1\n"),
    "a body that is only a docstring": ('class A:\n    """An A."""\n', "class A:\n pass\n"),
    "a module that is only a docstring": ('"""Nothing else."""\n', ""),
    "comments": ("a = 1  # one\n# two\nb = '# three'\n", "a=1\n\nb='# three'\n"),
    "the first line's interpreter stays": ("#!/usr/bin/python3\n# x\na = 1\n", "#!/usr/bin/python3\n\na=1\n"),
    "letters of more than one byte": ("a = 'é'  # é\nb = 2  # ü\n", "a='é'\nb=2\n"),
    "annotations": (
        'def f(a: "int", *b: str, c: int = 1) -> "list[int]":\n    d: "int" = a\n    return [d]\n',
        "def f(a,*b,c=1):\n d=a\n return[d]\n",
    ),
    "an annotation over several lines stays": ("a: dict[\n    str, int] = {}\n", "a:dict[str,int]={}\n"),
    "an annotation that makes a name local stays": (LOCAL, "def f():\n a:int\n a=1\n"),
    "members of a named tuple stay": (TUPLE, "class A(NamedTuple):\n a:int=1\n"),
    "members that are only declared": (
        'class A:\n    """An A."""\n\n    a: int\n    b: str = ""\n',
        'class A:\n\n\n\n b=""\n',
    ),
    "members of a class that only declares stay": ("class A:\n    a: int\n", "class A:\n a:int\n"),
    "what is for the type checker": (
        "if TYPE_CHECKING:\n    import a\n\n    # b\n    import c\nelse:\n    d: int = 1\n",
        "if TYPE_CHECKING:\n pass\n\n\n\nelse:\n d=1\n",
    ),
    "strings that are no docstrings": ("a = '''\n# a\n'''  # b\n", "a='''\n# a\n'''\n"),
    "depth": ("def f():\n    if a:\n        # c\n        b = 1\n\n    return b\nd = 2\n",
              "def f():\n if a:\n\n  b=1\n\n return b\nd=2\n"),
    "a statement of several lines becomes one, the next stays on its line": (
        "def f(\n    a: int,  # why\n    b: int,\n) -> int:\n    return [\n        a,\n    ]\nc = 1 + \\\n    2\nd\n",
        "def f(a,b):\n\n\n\n return[a,]\n\n\nc=1+2\n\nd\n",
    ),
    "strings of several lines stay, and what follows them": (
        "if a:\n    b = '''\n    c\n      ''' + f'''\n      {d}\n      e'''\n    g\n",
        "if a:\n b='''\n    c\n      '''+f'''\n      {d}\n      e'''\n g\n",
    ),
    "what is in an f-string stays": ("a = f'{b + 1:{c}} {d !r} {{ e }}' 'x'\n",
                                     "a=f'{b + 1:{c}} {d !r} {{ e }}' 'x'\n"),
    "blanks without which something else would stand there": (
        "a = not b if 1 else 'c' 'd' in e\nf = 1 .real\ng = '' 'h'\ni = lambda: j\nk = 2 if l else - m\n",
        "a=not b if 1 else 'c' 'd'in e\nf=1 .real\ng='' 'h'\ni=lambda:j\nk=2 if l else-m\n",
    ),
    "the comma that makes a tuple stays, one that says nothing goes": (
        "a = (b,)\nc = d[e,]\nf = (\n    g,\n    h,\n)\ni = (lambda j, k: 0,)\nl(m,)\n",
        "a=(b,)\nc=d[e,]\nf=(g,h)\n\n\n\ni=(lambda j,k:0,)\nl(m,)\n",
    ),
    "several statements on a line": ("a = 1; b = 2\nif a: b\nelse: c\n", "a=1;b=2\nif a:b\nelse:c\n"),
}  # fmt: skip

NAMES = {
    "variables of functions, those that are used most first": (
        "def f(some, other):\n    once = some\n    often = once\n    return often + often\n",
        "def f(some,other):\n b=some\n a=b\n return a+a\n",
    ),
    "in loops, with, except and comprehensions": (
        "def f(some):\n    try:\n        for one in some:\n            with one as two:\n"
        "                three = [four for four in two]\n"
        "    except OSError as error:\n        return three, error\n",
        "def f(some):\n try:\n  for a in some:\n   with a as b:\n    c=[d for d in b]\n"
        " except OSError as e:\n  return c,e\n",
    ),
    "what is nested sees the same": (
        "def f(some):\n    thing = some\n    def g(other):\n        more = other\n        return more + thing\n"
        "    return g, lambda last: thing\n",
        "def f(some):\n a=some\n def g(other):\n  b=other\n  return b+a\n return g,lambda last:a\n",
    ),
    "no short name that means something there already": (
        "def f(b):\n    thing = a, b\n    return thing, lambda c: thing\n",
        "def f(b):\n d=a,b\n return d,lambda c:d\n",
    ),
    "a name that is one of the module in a part of the function stays": (
        "def f(some):\n    return [thing for thing in some], thing\n",
        "def f(some):\n return[thing for thing in some],thing\n",
    ),
    "names of modules and classes stay, and what functions set of them": (
        "thing = 1\nclass A:\n    other = 2\n    def f(self):\n        global thing\n        thing = A.other\n",
        "thing=1\nclass A:\n other=2\n def f(self):\n  global thing\n  thing=A.other\n",
    ),
    "imports, functions and what is in f-strings stay": (
        "def f(some):\n    import abc as thing\n    def other():\n        return 1\n"
        "    text = 'x'\n    return f'{text}', thing, other\n",
        "def f(some):\n import abc as thing\n def other():\n  return 1\n text='x'\n return f'{text}',thing,other\n",
    ),
    "nothing is renamed beside a class or where variables are asked for by name": (
        "def f():\n    thing = 1\n    class A:\n        thing = thing\ndef g():\n    thing = 1\n    return locals()\n",
        "def f():\n thing=1\n class A:\n  thing=thing\ndef g():\n thing=1\n return locals()\n",
    ),
    "letters of more than one byte before a name": (
        "def f():\n    thing = 'é'; return 'ü', thing\n",
        "def f():\n a='é';return 'ü',a\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_variables_that_nobody_outside_can_name_get_short_names(name: str) -> None:
    before, after = NAMES[name]
    assert slim.slimmed(before.encode()).decode() == after


@pytest.mark.parametrize("before,after", [
    ("def f(a):\n b = 1\n return a\n", "def f(a):\n b = 1\n return b\n"),
    ("def f(a):\n b = 1\n return b\n", "def f(a):\n a = 1\n return a\n"),
    ("def f():\n b = 1\n return a\n", "def f():\n a = 1\n return a\n"),
    ("def f():\n b = 1\n return a\n", "def f():\n b = 1\n return c\n"),
    ("def f():\n b = 1\n return lambda a: b\n", "def f():\n a = 1\n return lambda a: a\n"),
    ("def f():\n b = c = 1\n return b - c\n", "def f():\n a = a = 1\n return a - a\n"),
    ("def f():\n b = 1\n\n return b\n", "def f():\n b = 1\n return b\n"),
    ("b = 1\n", "a = 1\n"),
])  # fmt: skip
def test_a_name_that_comes_to_mean_something_else_is_noticed(before: str, after: str) -> None:
    assert slim.same_names(before.encode(), before.encode())
    assert not slim.same_names(before.encode(), after.encode())


@pytest.mark.parametrize("name", CASES)
def test_it_leaves_out_what_does_not_run_and_nothing_else(name: str) -> None:
    before, after = CASES[name]
    assert slim.slimmed(before.encode()).decode() == after


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_source_of_the_project_is_the_same_program_afterwards(tmp_path) -> None:
    for name in ("controller/confine", "upgrade"):
        slim.copy(os.path.join(ROOT, name), str(tmp_path / name))
    done = subprocess.run([sys.executable, "-m", "compileall", "-q", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_traceback_names_the_line_of_the_repositorys_source() -> None:
    source = '"""Doc.\n\nMore."""\n\n# why\ndef f(a: int) -> int:\n    """G."""\n    return a / 0\n'
    space: dict = {}
    exec(compile(slim.slimmed(source.encode()), "some.py", "exec"), space)
    with pytest.raises(ZeroDivisionError) as raised:
        space["f"](1)
    assert traceback.extract_tb(raised.value.__traceback__)[-1].lineno == 8


@pytest.mark.parametrize("cut", [(0, 6, b""), (0, 6, b"\n"), (6, 7, b"")])
def test_a_file_that_would_not_be_the_same_program_stops_the_build(cut, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slim.Finder, "generic_visit", lambda self, node: self.cuts.append(cut))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "some.py").write_text("a = 1\nb = 2\n")
    with pytest.raises(slim.SlimError, match="some.py"):
        slim.copy(str(tmp_path / "in"), str(tmp_path / "out"))


def test_a_source_that_does_not_parse_is_named(tmp_path) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    argv = [sys.executable, "-m", "package.slim", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "bad.py" in done.stderr


def test_modes_and_other_files_are_kept_and_tests_and_byte_code_are_left(tmp_path) -> None:
    source = tmp_path / "in"
    for name in ("tests/test_a.py", "__pycache__/a.pyc", "bin/tool", "text"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("# not Python\n")
    (source / "bin" / "tool").chmod(0o755)
    slim.copy(str(source), str(tmp_path / "out"))
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"bin/tool", "text"}
    assert (tmp_path / "out" / "text").read_text() == "# not Python\n"
    assert os.access(tmp_path / "out" / "bin" / "tool", os.X_OK)


def slim_project(where: str) -> None:
    """The project with the controller as packages have it; the rest by links."""
    for name in os.listdir(ROOT):
        if name not in ("controller", ".git"):
            os.symlink(os.path.join(ROOT, name), os.path.join(where, name))
    slim.copy(os.path.join(ROOT, "controller", "confine"), os.path.join(where, "controller", "confine"))
    tests = os.path.join(where, "controller", "tests")
    subprocess.run(["cp", "-r", os.path.join(ROOT, "controller", "tests"), tests], check=True)


def run_slim(where: str, *tests: str) -> None:
    """Run some of the project's tests there; none may fail."""
    slim_project(where)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "-m",
        "not qemu and not torture and not slow",
    ]
    done = subprocess.run([*argv, "--deselect", "controller/tests/test_slim.py", *tests], cwd=where,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_cores_tests_pass_on_what_packages_install(tmp_path) -> None:
    run_slim(str(tmp_path), "controller/tests/core")


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_the_controllers_tests_pass_on_what_packages_install(tmp_path) -> None:
    run_slim(str(tmp_path), "controller/tests")
