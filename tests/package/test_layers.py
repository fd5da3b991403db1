"""Rules for csrc/ that a compiler does not check, tested by reading the text.

The core never includes Python.h, so that what runs without the interpreter is a folder. The text
looked at is as clang-format leaves it: a function's name starts a line, under its return type.
A line that says `/* lint-ok: reason */` is excused.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

FORBIDDEN_CALLS = {
    "exit": "runs the parent's exit functions and flushes its buffers a second time",
    "printf|fprintf|puts|perror": "a library does not print",
    "strcpy|strcat|sprintf|vsprintf|gets": "knows no size",
    "system|popen": "starts a shell",
    "select": "breaks on descriptors above 1023",
    "wait": "reaps children that are not ours",
    "signal": "handlers belong to the user",
    "pthread_atfork": "cannot be undone",
}
ANY_CHILD = re.compile(r"\bwaitpid\s*\(\s*-\s*1\b|\bwaitid\s*\(\s*P_(?:ALL|PGID)\b")

# What they return may be gone, or another object, by the next line.
BORROWING = """
    PyDict_GetItem PyDict_GetItemString PyDict_GetItemWithError PyDict_Next PyDict_SetDefault
    PyImport_AddModule PyList_GET_ITEM PyList_GetItem PyModule_AddObject
    PySequence_Fast_GET_ITEM PySequence_Fast_ITEMS PySys_GetObject
    PyWeakref_GET_OBJECT PyWeakref_GetObject
""".split()

# Tables that CPython wants not to be const.
TABLES = re.compile(
    r"\bPy(MethodDef|MemberDef|GetSetDef|ModuleDef|ModuleDef_Slot|Type_Slot|Type_Spec"
    r"|StructSequence_\w+)\b|\bchar \*\w+\[\]"
)

COMMENT_OR_LITERAL = re.compile(
    r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)
EXCUSE = re.compile(r"/\* lint-ok: \S")


@dataclass
class Source:
    name: str  # csrc/core/cp_x.c
    text: str

    @property
    def is_core(self):
        return self.name.startswith("csrc/core/")

    @cached_property
    def code(self):
        """The text with comments and literals emptied, line by line the same."""

        def empty(match):
            return "\n" * match[0].count("\n") or " " if match[0][0] == "/" else "0"

        return COMMENT_OR_LITERAL.sub(empty, self.text)

    def complain(self, offset, what):
        """Return [what is wrong with the line of the code's offset], or [] where it is excused."""
        number = self.code.count("\n", 0, offset)
        if EXCUSE.search(self.text.split("\n")[number]):
            return []
        return [f"{self.name}:{number + 1}: {what}"]

    def complain_of_calls(self, names, what):
        return [
            complaint
            for match in re.finditer(rf"(?<![\w.>])(?:{names})\s*\(", self.code)
            for complaint in self.complain(match.start(), what.format(match[0]))
        ]


def functions(source):
    """Yield (name, is static, offset of the name) of each function."""
    for match in re.finditer(r"^(\w.*)\n(\w+)\([^;{}]*\)\s*\n\{", source.code, re.MULTILINE):
        is_static = re.search(r"\bstatic\b", match[1]) is not None
        yield match[2], is_static, match.start(2)


def declarations(source):
    """Yield (text, offset) of each declaration at file scope, what stands in braces dropped."""
    code = re.sub(
        r"^[ \t]*#(?:.*\\\n)*.*",
        lambda match: re.sub(r"[^\n]", " ", match[0]),
        source.code,
        flags=re.MULTILINE,
    )
    depth, text, start = 0, "", 0
    for offset, char in enumerate(code):
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0 and re.fullmatch(r"[^=]*\)\s*", text):
                text = ""  # the end of a function
            elif depth == 0:
                text += "{}"
        elif depth == 0 and char == ";":
            yield text.strip(), start
            text = ""
        elif depth == 0 and (text or not char.isspace()):
            start = start if text else offset
            text += char


def mutable_variable(declaration):
    """Return the name of the variable that a declaration at file scope defines, or None."""
    what = re.sub(r"\s*=.*", "", declaration, flags=re.DOTALL)
    what = re.sub(r"\b_Alignas\s*\([^)]*\)|__attribute__\s*\(\(.*?\)\)", "", what).strip()
    what = re.sub(r"\b_Atomic\s*\(([^)]*)\)", r"\1", what)
    if re.match(r"(typedef|extern|static_assert|_Static_assert)\b", what):
        return None
    if re.fullmatch(r"(struct|union|enum)\s*\w*\s*(\{\})?", what):
        return None
    if re.search(r"\((?!\s*\*)", what.partition("(*")[0]):
        return None  # a prototype
    if "const" in what.rpartition("*")[2].split():
        return None
    pointer_to_function = re.search(r"\(\s*\*\s*(\w+)", what)
    if pointer_to_function:
        return pointer_to_function[1]
    return re.findall(r"\w+", what.partition("[")[0])[-1]


# The rules. Each returns what is wrong with a source, or [].


def no_python_in_the_core(source):
    if not source.is_core:
        return []
    return [
        complaint
        for match in re.finditer(r"#\s*include\s*([<\"](?:Python|\S*py/).*)", source.text)
        for complaint in [f"{source.name}: the core includes {match[1]}"]
    ]


def prefixed_names(source):
    prefix = "cp_" if source.is_core else "py_"
    return [
        complaint
        for name, is_static, offset in functions(source)
        if not is_static and not name.startswith((prefix, "PyInit_"))
        for complaint in source.complain(offset, f"{name} is not static and has no {prefix}")
    ]


def variables(source):
    """Yield the declarations, and the static variables within functions."""
    yield from declarations(source)
    for match in re.finditer(r"^[ \t]+(static\b[^;]*);", source.code, re.MULTILINE):
        yield match[1], match.start(1)


def no_mutable_variables(source):
    return [
        complaint
        for declaration, offset in variables(source)
        if (name := mutable_variable(declaration))
        and (source.is_core or not TABLES.search(declaration))
        for complaint in source.complain(offset, f"{name} is state that belongs to no pool")
    ]


def no_forbidden_calls(source):
    complaints = []
    for names, why in FORBIDDEN_CALLS.items():
        complaints += source.complain_of_calls(names, "{}) " + why)
    for match in ANY_CHILD.finditer(source.code):
        complaints += source.complain(match.start(), "reaps children that are not ours")
    return complaints


def no_borrowed_references(source):
    return source.complain_of_calls("|".join(BORROWING), "{}) returns a borrowed reference")


def opens_with_a_comment(source):
    return [] if source.text.startswith("/*") else [f"{source.name}: says nothing of what it is"]


RULES = [
    no_python_in_the_core,
    prefixed_names,
    no_mutable_variables,
    no_forbidden_calls,
    no_borrowed_references,
    opens_with_a_comment,
]


@pytest.fixture(scope="module")
def sources():
    found = [
        Source(str(path.relative_to(TOP)), path.read_text())
        for path in sorted(TOP.glob("csrc/*/*/*.[ch]"))
    ]
    assert {source.name.split("/")[1] for source in found} == {"core", "py"}
    return found


@pytest.mark.parametrize("rule", RULES)
def test_rule(sources, rule):
    complaints = [complaint for source in sources for complaint in rule(source)]
    assert not complaints, "\n" + "\n".join(complaints)


def test_one_place_forks(sources):
    calls = [
        call
        for source in sources
        for call in source.complain_of_calls("fork|vfork|_Fork|clone|posix_spawnp?", "{})")
    ]
    assert len(calls) == 1, calls
    assert calls[0].startswith("csrc/py/")


WRONG = [
    (no_python_in_the_core, "#include <Python.h>"),
    (no_python_in_the_core, '#  include "py/base/state.h"'),
    (prefixed_names, "int\nbuf_len(void)\n{\n    return 0;\n}"),
    (prefixed_names, "struct cp_buf *\nnew_buf(int a,\n        int b)\n{\n}"),
    (no_mutable_variables, "static int count;"),
    (no_mutable_variables, "static int count = 3;"),
    (no_mutable_variables, "static _Atomic(int) count;"),
    (no_mutable_variables, "static struct cp_buf buf = {.data = {0, 1}};"),
    (no_mutable_variables, "static struct cp_buf buf = (struct cp_buf){0};"),
    (no_mutable_variables, "struct {\n    int a;\n} one;"),
    (no_mutable_variables, 'static const char *names[] = {"a;", "b"};'),
    (no_mutable_variables, "static void (*hook)(int a);"),
    (no_mutable_variables, "static _Thread_local int depth;"),
    (no_mutable_variables, "static int\nf(void)\n{\n    return 0;\n}\nint last;"),
    (no_mutable_variables, "static int\nf(void)\n{\n    static int once = 1;\n    return once;\n}"),
    (no_forbidden_calls, "static void\nf(void)\n{\n    exit(1);\n}"),
    (no_forbidden_calls, "    waitpid(-1, NULL, 0);"),
    (no_forbidden_calls, "    r = wait (&status);"),
    (no_borrowed_references, "    PyDict_GetItem(d, k);"),
    (no_borrowed_references, "    PyObject *item = PyList_GET_ITEM(list, 0);"),
    (opens_with_a_comment, "#include <stdio.h>"),
]
RIGHT = [
    (no_python_in_the_core, '#include "core/base/base.h" // not Python.h'),
    (prefixed_names, "int\ncp_len(void)\n{\n    return 0;\n}"),
    (prefixed_names, "static inline int\nlen(void)\n{\n    return 0;\n}"),
    (no_mutable_variables, 'static const char *const names[] = {"a;", "b"};'),
    (no_mutable_variables, "static const int sizes[] = {1, 2};"),
    (no_mutable_variables, "typedef int cp_int;\nstruct cp_a;\nenum cp_b { ONE, TWO };"),
    (no_mutable_variables, "int cp_f(int (*f)(int a), void *arg);\nint *cp_g(void);"),
    (no_mutable_variables, "static int\nf(void)\n{\n    int once = 1;\n    return once;\n}"),
    (no_mutable_variables, "#define A \\\n    int count;\nstatic_assert(A == 1, 0);"),
    (no_mutable_variables, "static int (*const hook)(void) = cp_f;"),
    (no_forbidden_calls, "    _exit(1);\n    sel->exit(2);\n    cp_select(3);\n    // exit(1)"),
    (no_forbidden_calls, "    waitpid(pid, NULL, 0);"),
    (no_forbidden_calls, "    exit(1); /* lint-ok: the test wants it */"),
    (no_borrowed_references, "    PyList_GetItemRef(list, 0);"),
]


@pytest.mark.parametrize(("rule", "text"), WRONG)
def test_rule_sees_what_is_wrong(rule, text):
    assert len(rule(Source("csrc/core/cp_x.c", text + "\n"))) == 1


def test_the_binding_may_have_what_cpython_wants():
    for text in ("static PyMethodDef methods[] = {{0}};", 'static char *names[] = {"a", 0};'):
        assert no_mutable_variables(Source("csrc/py/py_x.c", text)) == []
    assert len(no_mutable_variables(Source("csrc/py/py_x.c", "static PyObject *cache;"))) == 1


@pytest.mark.parametrize(("rule", "text"), RIGHT)
def test_rule_lets_pass_what_is_right(rule, text):
    assert rule(Source("csrc/core/cp_x.c", text + "\n")) == []
