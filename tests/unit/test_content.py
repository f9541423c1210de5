"""Content: what both stores can hold, and a hash that only content can change."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
import rfc8785
from hypothesis import assume, example, given
from hypothesis import strategies as st

from core import content as content_module
from core.content import MAX_DEPTH, check_content, content_hash, content_of, is_plain, load_exact, plain_canonical
from core.errors import DocumentRefusedError
from core.projection import same_json
from tests.unit.strategies import as_cosmos, as_jsonb, contents, floats, integers, texts, values

if TYPE_CHECKING:
    from core.content import Document

# RFC 8785, sections 3.2.2 and 3.2.3
_SERIALIZED = (
    r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}""",
    (
        r"""{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"""
        r""""string":"€$\u000f\nA'B\"\\\\\"/"}"""
    ),
)
_SORTED = (
    r"""{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
        "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis"}""",
    (
        '{"\\r":"Carriage Return","1":"One","\u0080":"Control","ö":"Latin Small Letter O With Diaeresis",'
        '"€":"Euro Sign","😀":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}'
    ),
)
# RFC 8785, appendix B
_NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


def _hash_of(canonical: str) -> str:
    return "1:" + hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize(("text", "canonical"), [_SERIALIZED, _SORTED])
def test_the_hash_is_that_of_the_canonical_form_of_rfc_8785(text: str, canonical: str) -> None:
    assert content_hash(json.loads(text)) == _hash_of(canonical)


@pytest.mark.parametrize(("bits", "canonical"), _NUMBERS.items())
def test_numbers_are_hashed_as_rfc_8785_spells_them(bits: str, canonical: str) -> None:
    number = struct.unpack(">d", bytes.fromhex(bits))[0]
    assert content_hash({"n": number}) == _hash_of(f'{{"n":{canonical}}}')


def test_the_scheme_is_pinned() -> None:
    """A hash that changes makes every stored document a foreign one: give the new scheme another number."""
    document = {"id": "acc-1", "Email": "ann@example.com", "Tags": ["a", 1, None], "crossfeed": {"epoch": 3}}
    assert content_hash(document) == "1:46cd3f227795aff141ec0b0e85d90c9d"


_SPREAD = st.recursive(
    values | st.sampled_from([1e15, 1e16, 1e-5, 9e-6, 0.1, 123456789.125, 2**53 - 1, -(2**53) + 1]),
    lambda inner: st.dictionaries(texts | st.sampled_from(["\uffee", "😀", "é", "\x7f"]), inner, max_size=4),
)


@given(_SPREAD)
@example({"\uffee": 1, "😀": 2})
@example([1e15, 1e16, 1e-5, 9e-6, 1e21, 1e-7, 123456789012345.6])
@example('\x00\x08\t\n\x0b\x0c\r\x1f\x7f\u2028"\\/')
def test_what_is_plain_is_spelled_as_rfc_8785_spells_it(value: Any) -> None:
    if is_plain(value):
        assert plain_canonical(value) == rfc8785.dumps(value)


@given(_SPREAD, st.sampled_from(["", "\0", "\ud800"]))
def test_the_quick_look_takes_nothing_that_is_refused_and_hashes_nothing_otherwise(value: Any, end: str) -> None:
    document = {"id": "a", "v": value, "w": f"x{end}"}

    def judged() -> tuple[bool, str | None]:
        try:
            check_content(document)
        except DocumentRefusedError:
            return False, None
        return True, content_hash(document)

    quick = judged()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_module, "is_plain", lambda *_: False)
        assert judged() == quick


def test_plain_is_only_what_json_reads_back() -> None:
    for value in (1.0, 1e-7, 2**53, (1,), {1: 2}, b"x", object(), float("nan"), float("inf"), _nested(MAX_DEPTH + 1)):
        assert not is_plain(value)
    assert is_plain(_nested(MAX_DEPTH))


@given(contents)
def test_neither_store_changes_the_hash_by_its_spelling_of_json(content: Document) -> None:
    expected = content_hash(content)
    assert content_hash(as_cosmos(content)) == expected
    assert content_hash(as_jsonb(content)) == expected
    assert content_hash(json.loads(json.dumps(content))) == expected


@given(contents, values)
def test_what_is_not_content_is_not_hashed(content: Document, value: Any) -> None:
    dressed = dict.fromkeys(("_rid", "_self", "_etag", "_attachments", "_ts", "_lsn", "_metadata", "crossfeed"), value)
    assert content_hash({**dressed, **content, "id": "another"}) == content_hash(content)
    assert content_of({**dressed, **content}) == content


@given(contents, st.data())
def test_any_change_of_content_changes_the_hash(content: Document, data: st.DataObject) -> None:
    changed = copy.deepcopy(content)
    name = data.draw(
        st.one_of(texts.map(lambda text: f"x{text}"), st.sampled_from(sorted(content.keys() - {"id"}) or ["x"]))
    )
    if name in changed and data.draw(st.booleans()):
        del changed[name]
    else:
        changed[name] = data.draw(values)
    assume(not same_json(changed, content))
    assert content_hash(changed) != content_hash(content)


@pytest.mark.parametrize(
    ("one", "other"), [(True, 1), (False, 0), (None, False), (None, ""), ("1", 1), ([], {}), ([1], 1)]
)
def test_values_of_different_kinds_are_different_content(one: Any, other: Any) -> None:
    assert content_hash({"a": one}) != content_hash({"a": other})
    assert not same_json({"a": [one]}, {"a": [other]})


@given(values, values)
def test_same_json_and_the_hash_agree(one: Any, other: Any) -> None:
    assert same_json(one, other) == (content_hash({"v": one}) == content_hash({"v": other}))
    assert same_json(one, copy.deepcopy(one))


@given(contents)
def test_json_that_both_stores_hold_is_accepted(content: Document) -> None:
    check_content(content)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (2**53 + 1, "$.a"),
        (-(2**53) - 1, "$.a"),
        (10**400, "$.a"),
        (float("nan"), "$.a"),
        (float("inf"), "$.a"),
        ("a\0b", "$.a"),
        ("\ud800", "$.a"),
        ([1, {"b": "\0"}], "$.a[1].b"),
        ({"b\0": 1}, "$.a"),
        ({"\udfff": 1}, "$.a"),
        ({1: 2}, "$.a"),
        ((1, 2), "$.a"),
        (b"bytes", "$.a"),
    ],
)
def test_what_one_of_the_stores_cannot_hold_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(DocumentRefusedError, match="both stores") as refusal:
        check_content({"id": "a", "a": value})
    assert f"at {place}: " in str(refusal.value)


def _nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"n": value}
    return value


def test_nesting_is_refused_beyond_what_cosmos_takes_however_deep_it_is() -> None:
    check_content({"a": _nested(MAX_DEPTH - 1)})
    for levels in (MAX_DEPTH, 1_000, 100_000):
        with pytest.raises(DocumentRefusedError, match="128 levels"):
            check_content({"a": _nested(levels)})
    with pytest.raises(DocumentRefusedError):
        content_hash({"a": _nested(100_000)})
    with pytest.raises(DocumentRefusedError, match="128 levels"):
        load_exact("[" * 100_000 + "]" * 100_000)


def test_two_megabytes_are_counted_in_bytes_with_room_for_our_property() -> None:
    limit = 2 * 1024 * 1024 - 1024
    frame = len('{"id":"a","a":""}')
    check_content({"id": "a", "a": "x" * (limit - frame)})
    check_content({"id": "a", "a": "é" * ((limit - frame) // 2)})
    for text in ("x" * (limit - frame + 1), "é" * (limit // 2)):
        with pytest.raises(DocumentRefusedError, match="2 MB"):
            check_content({"id": "a", "a": text})


@given(st.one_of(floats, integers))
def test_load_exact_reads_every_double(number: float) -> None:
    assert same_json(load_exact(json.dumps(number)), number)


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740993",
        "123456789012345678901234567890",
        "0.1234567890123456789",
        "1e400",
        "-1e400",
        "1e-400",
        "1e-99999999999999999999",
        "NaN",
        "-Infinity",
        "1" * 5000,
        '{"a": [1.00000000000000000001]}',
    ],
)
def test_load_exact_refuses_a_number_that_a_double_cannot_hold(text: str) -> None:
    with pytest.raises(DocumentRefusedError):
        load_exact(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.50", 1.5),
        ("0.1", 0.1),
        ("-0.0", 0),
        ("9007199254740994", 2**53 + 2),
        ("295147905179352825856", 2.0**68),  # its exact value
        ("295147905179352830000", 2.0**68),  # its shortest digits: what JSONB makes of 2.9514790517935283e+20
        ("100000000000000000000000", 1e23),
    ],
)
def test_load_exact_minds_the_double_and_not_its_spelling(text: str, number: float) -> None:
    assert same_json(load_exact(text), number)
    assert content_hash({"n": load_exact(text)}) == content_hash({"n": number})
    check_content({"n": load_exact(text)})


@given(
    st.dictionaries(
        texts | st.just("\0"), values | st.sampled_from(["\0", "\ud800", 2.0, -0.0, 1e22, 2**53, 2**60 + 1])
    )
)
def test_what_is_sound_passes_the_check_and_is_spelled_as_rfc_8785_spells_it(content: Document) -> None:
    content.pop("id", None)
    try:
        canonical, is_sound = content_module.spelled(content)
    except DocumentRefusedError:
        return
    if is_sound:
        content_module.check_values(content)
        assert canonical == rfc8785.dumps(content)


@pytest.mark.parametrize("text", ["\0", "\\\0", "a\0b"])
def test_a_nul_character_is_never_sound(text: str) -> None:
    assert not content_module.spelled({"a": text}).is_sound
    assert not content_module.spelled({text: 1}).is_sound
    assert content_module.spelled({"a": text.replace("\0", "0"), "b": 1.0}).is_sound
