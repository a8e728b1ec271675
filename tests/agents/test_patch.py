"""Patches: what changed, and how the changes of one round are merged."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.agents.patch import Overlap, add, apply, diff, extend, merge, same
from perdure.types.errors import Unserialisable

keys = st.text(alphabet="ab/~*", max_size=2)
scalars = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, 1.5]) | st.text("ab", max_size=2)
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
objects = st.dictionaries(keys, documents, max_size=4)


def exact(value: Any) -> str:
    """A text that tells 1 from 1.0 and true, and ignores the order of keys."""
    return json.dumps(value, sort_keys=True)


# -- diff and apply -------------------------------------------------------------------------------------------------


@given(documents, documents)
def test_a_diff_applied_gives_the_other_document(before, after):
    was = exact(before), exact(after)
    patch = diff(before, after)
    assert exact(apply(before, patch)) == exact(after)
    assert (exact(before), exact(after)) == was


@given(documents)
def test_equal_documents_have_no_diff(doc):
    assert diff(doc, copy.deepcopy(doc)) == []


@given(documents, documents)
def test_same_means_the_same_json_text(one, other):
    assert same(one, other) is (exact(one) == exact(other))


def test_a_diff_names_what_changed():
    before = {"a": {"b": 1, "c": [1]}, "gone": 1, "x/y~z": 0}
    after = {"a": {"b": 2, "c": [1, 2]}, "new": {"d": 1}, "x/y~z": 1}
    assert diff(before, after) == [
        {"op": "replace", "path": "/a/b", "value": 2},
        {"op": "replace", "path": "/a/c", "value": [1, 2]},
        {"op": "remove", "path": "/gone"},
        {"op": "replace", "path": "/x~1y~0z", "value": 1},
        {"op": "add", "path": "/new", "value": {"d": 1}},
    ]


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ([1], [True]), ({}, [])])
def test_values_that_python_holds_for_equal_are_different(one, other):
    assert diff({"x": one}, {"x": other}) == [{"op": "replace", "path": "/x", "value": other}]
    assert diff(one, other) == [{"op": "replace", "path": "", "value": other}]


def test_apply_shares_what_did_not_change():
    doc = {"a": {"x": 1}, "b": {"y": 1}}
    after: Any = apply(doc, [{"op": "replace", "path": "/a/x", "value": 2}])
    assert after["b"] is doc["b"]
    assert doc["a"] == {"x": 1}


@pytest.mark.parametrize(
    ("doc", "op"),
    [
        ({}, {"op": "remove", "path": "/a"}),
        ({}, {"op": "remove", "path": ""}),
        ({}, {"op": "add", "path": "/a/b", "value": 1}),
        ({"a": [1]}, {"op": "replace", "path": "/a/0", "value": 1}),
        ({}, {"op": "add", "path": "a", "value": 1}),
    ],
)
def test_a_patch_that_does_not_fit_is_an_error(doc, op):
    with pytest.raises(ValueError, match=r"fit|remove the whole|begin with '/'"):
        apply(doc, [op])


# -- merge ----------------------------------------------------------------------------------------------------------


@given(documents, documents)
def test_a_merge_of_one_patch_is_apply(doc, after):
    patch = diff(doc, after)
    for reducers in ({}, {"/a": add, "/*/a": extend}):
        merged, overlaps = merge(doc, [None, patch, []], reducers)
        assert exact(merged) == exact(after)
        assert overlaps == []


@given(objects, st.lists(objects, min_size=2, max_size=3))
def test_disjoint_patches_commute(doc, afters):
    """Each call writes below a key of its own."""
    base = {f"k{n}": doc for n in range(len(afters))}
    patches = [diff(base, {**base, f"k{n}": after}) for n, after in enumerate(afters)]
    forward, overlaps = merge(base, patches, {})
    backward, _ = merge(base, patches[::-1], {})
    assert overlaps == []
    assert exact(forward) == exact(backward) == exact({f"k{n}": after for n, after in enumerate(afters)})


@given(objects, st.lists(objects, min_size=2, max_size=4))
def test_a_merge_changes_none_of_its_inputs(doc, afters):
    patches = [diff(doc, after) for after in afters]
    was = exact([doc, patches])
    merge(doc, patches, {"/a": extend_anything, "/b/*": extend_anything})
    assert exact([doc, patches]) == was


def extend_anything(before: Any, mine: Any, theirs: Any) -> Any:
    if isinstance(mine, list):
        mine.append(theirs)
    return mine


@given(objects, objects, objects)
def test_the_later_call_wins_and_what_is_lost_is_reported(doc, one, other):
    patches = [diff(doc, one), diff(doc, other)]
    merged, overlaps = merge(doc, patches, {})
    # every write of the later call stands
    assert diff(merged, apply(merged, [op for op in patches[1] if op["op"] != "remove"])) == []
    # every write of the earlier call stands, or is reported
    reported = {overlap.path for overlap in overlaps}
    for op in patches[0]:
        stands = exact(at(merged, op["path"])) == exact(at(one, op["path"]))
        assert stands is (op["path"] not in reported)
    assert all((overlap.winner, overlap.loser) == (1, 0) for overlap in overlaps)


def at(doc: Any, path: str) -> Any:
    for key in path.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        if not isinstance(doc, dict) or key not in doc:
            return "<missing>"
        doc = doc[key]
    return doc


def test_calls_that_write_the_same_value_do_not_conflict():
    doc = {"x": 1, "a": {"b": 1}}
    same_write = diff(doc, {"x": 2, "a": {}})
    assert merge(doc, [same_write, same_write], {}) == ({"x": 2, "a": {}}, [])


def test_true_and_one_are_not_the_same_write():
    doc = {"x": 0}
    assert merge(doc, [diff(doc, {"x": 1}), diff(doc, {"x": True})], {})[1] == [Overlap("/x", 1, 0)]


def test_three_calls_on_one_path():
    doc = {"x": 0}
    patches = [diff(doc, {"x": n}) for n in (1, 1, 2, 2, 3)]
    assert merge(doc, patches, {}) == (
        {"x": 3},
        [Overlap("/x", 2, 0), Overlap("/x", 2, 1), Overlap("/x", 4, 2), Overlap("/x", 4, 3)],
    )


def test_a_removal_after_a_write_inside_wins():
    doc = {"a": {"b": 1}}
    assert merge(doc, [diff(doc, {"a": {"b": 2}}), diff(doc, {})], {}) == ({}, [Overlap("/a/b", 1, 0)])


def test_a_write_inside_after_a_removal_brings_back_what_it_saw():
    doc = {"a": {"b": 1, "c": 1}, "d": 1}
    merged, overlaps = merge(doc, [diff(doc, {"d": 1}), diff(doc, {"a": {"b": 2, "c": 1}, "d": 1})], {})
    assert merged == {"a": {"b": 2, "c": 1}, "d": 1}
    assert overlaps == [Overlap("/a", 1, 0)]


def test_a_write_inside_after_a_replacement_by_another_kind():
    doc = {"a": {"b": 1}}
    merged, overlaps = merge(doc, [diff(doc, {"a": [5]}), diff(doc, {"a": {"b": 2}})], {})
    assert merged == {"a": {"b": 2}}
    assert overlaps == [Overlap("/a", 1, 0)]


def test_a_patch_that_touches_a_path_twice_counts_once():
    patch = [{"op": "add", "path": "/a", "value": {}}, {"op": "add", "path": "/a/b", "value": 1}]
    assert merge({}, [patch, patch], {}) == ({"a": {"b": 1}}, [])


def test_a_patch_that_does_not_fit_is_an_error_in_a_merge_too():
    with pytest.raises(ValueError, match="nothing at '/z'"):
        merge({}, [[{"op": "remove", "path": "/z"}], [{"op": "add", "path": "/a", "value": 1}]], {})


# -- reducers -------------------------------------------------------------------------------------------------------


def test_add_and_extend_merge_what_every_call_did():
    doc = {"count": 5, "items": ["a"], "other": 0}
    patches = [
        diff(doc, {"count": 6, "items": ["a", "b"], "other": 1}),
        diff(doc, {"count": 8, "items": ["a", "c"], "other": 0}),
        diff(doc, {"count": 4, "items": ["a", "b"], "other": 0}),
    ]
    merged, overlaps = merge(doc, patches, {"/count": add, "/items": extend})
    assert merged == {"count": 5 + 1 + 3 - 1, "items": ["a", "b", "c", "b"], "other": 1}
    assert overlaps == []


@given(st.integers(-5, 5), st.lists(st.integers(-5, 5), max_size=4))
def test_add_is_the_sum_of_all_changes(before, changes):
    doc = {"n": before}
    merged, overlaps = merge(doc, [diff(doc, {"n": before + change}) for change in changes], {"/n": add})
    assert merged == {"n": before + sum(changes)}
    assert overlaps == []


def test_add_knows_nothing_and_decimals():
    assert add(None, 1, 2) == 3
    assert add("1.10", "1.20", "2.10") == "2.20"


@pytest.mark.parametrize(
    ("before", "mine", "theirs", "merged"),
    [
        ([1, 2], [1, 2, 3], [1, 2, 3], [1, 2, 3, 3]),
        ([1, 2], [1, 2, 3], [1, 5], [1, 2, 3, 5]),
        ([1, 2], [1, 3], [1, 4], [1, 3, 4]),
        ([1], [1, 2], [9], [1, 2, 9]),
        ([1], [1, 2], [True, 3], [1, 2, True, 3]),
        (None, [1], [2], [1, 2]),
        ([1], None, [1, 2], [1, 2]),
    ],
)
def test_extend_keeps_the_beginning_and_appends(before, mine, theirs, merged):
    assert exact(extend(before, mine, theirs)) == exact(merged)


def test_a_star_stands_for_any_key():
    doc = {"by": {"x": {"n": 1, "m": 0}, "y": {"n": 1, "m": 0}}}
    patches = [
        diff(doc, {"by": {"x": {"n": 2, "m": 1}, "y": {"n": 1, "m": 0}}}),
        diff(doc, {"by": {"x": {"n": 3, "m": 2}, "y": {"n": 2, "m": 0}}}),
    ]
    merged, overlaps = merge(doc, patches, {"/by/*/n": add})
    assert merged == {"by": {"x": {"n": 4, "m": 2}, "y": {"n": 2, "m": 0}}}
    assert overlaps == [Overlap("/by/x/m", 1, 0)]


def test_objects_that_two_calls_made_are_merged_at_the_paths_that_can_be():
    doc: Any = {"by": {}}
    patches = [
        diff(doc, {"by": {"x": {"n": 1}}}),
        diff(doc, {"by": {"x": {"n": 2}}}),
        diff(doc, {"by": {"y": {"n": 4}}}),
    ]
    assert merge(doc, patches, {"/by/*/n": add}) == ({"by": {"x": {"n": 3}, "y": {"n": 4}}}, [])
    patches[1] = diff(doc, {"by": {"x": {"n": 2, "m": 1}}})
    assert merge(doc, patches, {"/by/*/n": add}) == (
        {"by": {"x": {"n": 3, "m": 1}, "y": {"n": 4}}},
        [Overlap("/by/x", 1, 0)],
    )


def test_an_object_with_a_reducer_is_merged_as_one():
    doc: Any = {"s": {"a": 1, "b": 1}}
    seen: list[Any] = []

    def last(before: Any, mine: Any, theirs: Any) -> Any:
        seen.append((before, mine, theirs))
        return {**mine, **theirs, "merged": True}

    patches = [diff(doc, {"s": {"a": 2, "b": 2}}), diff(doc, {"s": {"a": 3, "b": 3}})]
    assert merge(doc, patches, {"/s": last, "/s/a": add}) == ({"s": {"a": 3, "b": 3, "merged": True}}, [])
    assert seen == [({"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 3, "b": 3})]


def test_a_reducer_at_the_root():
    assert merge([1], [diff([1], [1, 2]), diff([1], [1, 3])], {"": extend}) == ([1, 2, 3], [])


def test_a_removed_value_is_not_merged():
    doc = {"n": 1}
    assert merge(doc, [diff(doc, {"n": 3}), diff(doc, {})], {"/n": add}) == ({}, [Overlap("/n", 1, 0)])
    assert merge(doc, [diff(doc, {}), diff(doc, {"n": 3})], {"/n": add}) == ({"n": 3}, [Overlap("/n", 1, 0)])


def test_a_reducer_gets_copies():
    doc: Any = {"items": [[0]]}
    patches = [diff(doc, {"items": [[0], [1]]}), diff(doc, {"items": [[0], [2]]})]
    was = exact([doc, patches])

    def greedy(before: Any, mine: Any, theirs: Any) -> Any:
        mine.extend(theirs[len(before) :])
        before.clear()
        theirs[0].append("x")
        return mine

    assert merge(doc, patches, {"/items": greedy})[0] == {"items": [[0], [1], [2]]}
    assert exact([doc, patches]) == was


def test_a_reducer_that_fails_or_returns_no_json_says_where():
    doc = {"n": 1}
    patches = [diff(doc, {"n": 2}), diff(doc, {"n": 3})]

    def broken(before: Any, mine: Any, theirs: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        merge(doc, patches, {"/n": broken})
    assert "'/n' of the state" in caught.value.__notes__[0]
    with pytest.raises(Unserialisable, match="merged state at '/n'"):
        merge(doc, patches, {"/n": lambda before, mine, theirs: object()})
