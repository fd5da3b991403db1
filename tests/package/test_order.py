"""Each file of csrc/ includes and calls only what comes before it; order.py has the order."""

import order
import pytest
from order import Sources


@pytest.fixture(scope="module")
def sources():
    return Sources.read()


def test_every_file_has_a_place(sources):
    assert sources.unplaced() == []


def test_every_include_means_one_file(sources):
    assert sources.ambiguous() == []


def test_headers_declare_functions_of_their_own_unit(sources):
    complaints = sources.strangely_declared()
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("folder", order.ORDER)
def test_nothing_goes_up(sources, folder):
    complaints = sources.climbing(folder)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_picture_is_of_these_folders(sources):
    """To draw it again: python tests/order.py --svg docs/layers.svg"""
    kept = (order.TOP / "docs" / "layers.svg").read_text()
    assert kept == order.draw(sources.graph(), sources.order), "draw docs/layers.svg again"


ABC: dict[str, str | None] = {"core/low": "a", "py/mid": "b c+c_more", "py/high": "d e"}
A = {"core/low/a.h": "int cp_a(void);\n", "core/low/a.c": "int\ncp_a(void)\n{\n}\n"}
B = {"py/mid/b.c": "int\npy_b(void)\n{\n    return cp_a();\n}\n", "py/mid/b.h": "int py_b(void);\n"}
C = {
    "py/mid/c.c": "int\npy_c(void)\n{\n    return py_b();\n}\n",
    "py/mid/c_more.c": "int\npy_more(void)\n{\n    return py_c();\n}\n",
    "py/mid/c.h": "int py_c(void);\nint py_more(void);\n",
}
D = {"py/high/d.h": '#include "low/a.h"\n#include "mid/b.h"\n'}
E = {"py/high/e.c": '#include "high/d.h"\nstatic int\npy_own(void)\n{\n    return py_more();\n}\n'}
ALL = {**A, **B, **C, **D, **E}


def climbing(texts, order_of=ABC):
    sources = Sources(texts, order_of)
    return [complaint for folder in order_of for complaint in sources.climbing(folder)]


def test_what_goes_down_is_right():
    sources = Sources(ALL, ABC)
    assert climbing(ALL) == sources.unplaced() == []
    assert sources.ambiguous() == sources.strangely_declared() == []
    assert sources.graph() == {
        "core/low": [],
        "py/mid": ["core/low"],
        "py/high": ["core/low", "py/mid"],
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core/low/a.c", '#include "py/mid/b.h"\n'),
        ("py/mid/b.h", '#include "high/d.h"\n'),
        ("py/mid/b.h", '#  include "mid/c.h"\n'),
        ("py/mid/b.h", "static inline int\npy_x(void)\n{\n    return py_c();\n}\n"),
        ("py/mid/b.h", "static const hook hooks[] = {py_c};\n"),
        ("py/mid/b.h", "int py_more(void);\n"),
    ],
)
def test_what_goes_up_is_seen(name, text):
    texts = {**ALL, name: ALL[name] + text}
    complaints = climbing(texts)
    assert len(complaints) == 1, complaints
    assert complaints[0].startswith(f"csrc/{name}:")


@pytest.mark.parametrize(
    "text",
    [
        "/* py_c() comes later */\n",
        'static const char name[] = "py_c()";\n',
        "int x = self->py_c;\n",
        "struct py_c {\n    int i;\n};\n",
    ],
)
def test_what_is_not_a_use_is_none(text):
    assert climbing({**ALL, "py/mid/b.h": ALL["py/mid/b.h"] + text}) == []


def test_files_of_one_unit_may_use_each_other():
    both = {**ALL, "py/mid/c.c": "int\npy_c(void)\n{\n    return py_more();\n}\n"}
    assert climbing(both) == []


def test_a_folder_without_an_order_is_checked_against_the_others():
    loose = {**ABC, "py/mid": None}
    late = {**ALL, "py/mid/b.h": ALL["py/mid/b.h"] + '#include "mid/c.h"\n'}
    assert climbing(late, loose) == Sources(late, loose).unplaced() == []
    up = {**ALL, "py/mid/b.h": ALL["py/mid/b.h"] + '#include "high/d.h"\n'}
    assert len(climbing(up, loose)) == 1


def test_files_and_units_that_the_table_lacks_are_seen():
    assert Sources({**ALL, "py/mid/f.c": ""}, ABC).unplaced() == ["py/mid/f.c has no place"]
    assert Sources(ALL, {**ABC, "py/high": "d e f"}).unplaced() == ["py/high/f is no file"]


def test_a_header_that_two_folders_have_is_seen():
    twice = {**ALL, "py/low/a.h": ""}
    assert len(Sources(twice, ABC).ambiguous()) == 1


def test_a_declaration_far_from_the_definition_is_seen():
    far = {**ALL, "py/high/d.h": ALL["py/high/d.h"] + "int *py_b(int a,\n         int b);\n"}
    assert len(Sources(far, ABC).strangely_declared()) == 1
