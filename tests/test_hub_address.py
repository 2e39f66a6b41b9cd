"""Addresses: what is one, what is refused, and the names their files get."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbnet_cli.errors import UsageError
from kbnet_cli.hub.address import HubAddress, WebAddress, key, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf:owner/name/sidd.safetensors", HubAddress("owner/name", "sidd.safetensors")),
        ("hf:o/n/folder/b c.pth@v1.0", HubAddress("o/n", "folder/b c.pth", "v1.0")),
        ("hf:o/n/a.pth@refs/pr/3", HubAddress("o/n", "a.pth", "refs/pr/3")),
        ("https://example.org/a/b.pth?x=1", WebAddress("https://example.org/a/b.pth?x=1")),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, address: HubAddress | WebAddress) -> None:
    assert parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["sidd", "weights/sidd.pth", "./hf/a.pth", "C:\\weights\\a.pth", "", "http.pth", "a@b"]
)
def test_names_and_paths_are_no_addresses(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:owner/name",
        "hf:owner/name/",
        "hf:owner//a.pth",
        "hf:../name/a.pth",
        "hf:owner/name/../../a.pth",
        "hf:owner/name/./a.pth",
        "hf:owner/name/a\\b.pth",
        "hf:owner/name/a.pth@",
        "hf:owner/name/a.pth@/etc/passwd",
        "hf:owner/name/a.pth@a//b",
        "hf:own--er/name/a.pth",
        "hf:owner/name.git/a.pth",
        "hf:owner/name./a.pth",
        f"hf:{'o' * 97}/name/a.pth",
        f"hf:owner/name/{'a' * 300}.pth",
        "hf:owner/name/C:a.pth",
        "hf:owner/name/a.pth@../x",
        "hf:owner/name/a\nb.pth",
        "https://",
        "https://example.org",
        "https://example.org/",
        "https://example.org/folder/",
        "https://[::1/a.pth",
        "https://example.org:port/a.pth",
        "https://example.org/a b.pth",
        "https://example.org/a\x07.pth",
        "https://example.org/" + "a" * 1000,
        "https://me:secret@example.org/a.pth",
        "http://example.org/a.pth",
        "ftp://example.org/a.pth",
    ],
)
def test_what_cannot_be_meant_or_is_not_safe_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert "secret" not in caught.value.message


WORD = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,18}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda word: "--" not in word and ".." not in word and not word.endswith(".git")
)


@given(owner=WORD, name=WORD, file=st.lists(WORD, min_size=1, max_size=3).map("/".join), revision=WORD)
def test_any_address_comes_back_and_has_a_name_of_its_own(owner: str, name: str, file: str, revision: str) -> None:
    address = HubAddress(f"{owner}/{name}", file, revision)
    assert parse(str(address)) == address
    named = key(address)
    assert len(named) < 100
    assert set(named) <= set(string.ascii_letters + string.digits + "-_.")
    assert not named.startswith(".")
    assert named != key(HubAddress(f"{owner}/{name}", file, revision + "x"))
