"""Text helpers and references between documents."""

from confine.core import text, uris


def test_only_plain_digits_are_decimal() -> None:
    assert text.is_decimal("0042")
    for wrong in ("", "-1", "+1", " 1", "1_0", "1.0", "٣"):
        assert not text.is_decimal(wrong), wrong


def test_a_long_value_is_cut_in_messages() -> None:
    assert text.shown("a") == "'a'"
    assert len(text.shown("x" * 500)) == 60


def test_the_nearest_word_is_found_and_a_far_one_is_not() -> None:
    words = ["memory_total", "disk_total", "accept_slices"]
    assert text.nearest("memroy_total", words) == "memory_total"
    assert text.nearest("accept_slice", words) == "accept_slices"
    assert text.nearest("colour", words) is None
    assert text.nearest("", words) is None


def test_relative_references_are_resolved_against_their_document() -> None:
    base = "https://h:8443/api/slivers/9/"
    for reference, absolute in (
        ("https://other/x", "https://other/x"),
        ("//other/x", "https://other/x"),
        ("/api/islands/1/", "https://h:8443/api/islands/1/"),
        ("data.tgz", "https://h:8443/api/slivers/9/data.tgz"),
        ("../../media/a.tgz", "https://h:8443/api/media/a.tgz"),
        ("../../../../../a", "https://h:8443/a"),
        ("./a?u=http://x/..", "https://h:8443/api/slivers/9/a?u=http://x/.."),
        ("..", "https://h:8443/api/slivers/"),
        ("", base),
    ):
        assert uris.join(base, reference) == absolute, reference
    assert uris.join("https://h", "a") == "https://h/a"
    assert uris.join("no uri", "a") == "a"


def test_a_sliver_is_the_same_at_another_address_of_its_registry() -> None:
    assert uris.item("http://[fd00::2]/api/slivers/9/") == uris.item("https://r.example.org/confine/api/slivers/9/")
    assert uris.item("http://a/api/slivers/9/") != uris.item("http://a/api/slivers/10/")
    assert uris.item("file:///x") == "file:///x"
