"""Which photos the command line means, in which order, each once, and none lost without a word."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbnet_cli import naming
from kbnet_cli.batch import tree
from kbnet_cli.batch.patterns import pattern
from kbnet_cli.batch.sources import Asked, Source, sources
from kbnet_cli.errors import UsageError
from tests.pictures import write_picture

STDIN = Path("-")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    return root


def ask(*inputs: str | Path, output: str | Path | None = "out", **rest: object) -> Asked:
    return Asked(tuple(map(Path, inputs)), output=Path(output) if output else None, **rest)  # type: ignore[arg-type]


def belows(asked: Asked, stdin: bytes = b"") -> list[str]:
    return [source.below.as_posix() for source in sources(asked, stdin=io.BytesIO(stdin))]


def paths(asked: Asked, stdin: bytes = b"") -> list[str]:
    return [source.path.as_posix() for source in sources(asked, stdin=io.BytesIO(stdin))]


def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the folders that are looked into from now on."""
    scanned: list[str] = []
    real = os.scandir

    def scan(path: str | Path) -> object:
        scanned.append(str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    return scanned


# Files that are named


def test_a_named_file_is_taken_as_it_is(here: Path) -> None:
    make(here, ".hidden.jpg", "notes.txt")
    given = (".hidden.jpg", "notes.txt", "missing.jpg", "-v.jpg", "sub/x.png")
    assert sources(ask(*given, output=None)) == [Source(Path(name), Path(Path(name).name)) for name in given]


def test_the_same_path_counts_once_and_two_links_are_two_photos(here: Path) -> None:
    make(here, "a.jpg", "d/b.jpg")
    (here / "link.jpg").symlink_to("a.jpg")
    asked = ask("a.jpg", "./a.jpg", here / "a.jpg", "link.jpg", "d", "d/b.jpg", "-", "-", recursive=True)
    assert paths(asked) == ["a.jpg", "link.jpg", "d/b.jpg", "-"]


def test_a_name_that_is_too_long_is_that_photos_error_later(here: Path) -> None:
    long = "x" * 5000 + ".jpg"
    assert paths(ask(long, "a.jpg")) == [long, "a.jpg"]


def test_standard_input_and_a_file_called_minus(here: Path) -> None:
    write_picture(here / "x.png")
    (here / "x.png").rename(here / "-")
    assert sources(ask("-")) == [Source(STDIN, Path("stdin"))]
    assert sources(ask(".", recursive=True)) == [Source(here / "-", Path("-"), found=True)]
    assert sources(Asked((), list_file=STDIN), stdin=io.BytesIO(b"-\n")) == [Source(here / "-", Path("-"), listed=True)]


# Folders


def test_folders_need_r_and_an_output(here: Path) -> None:
    make(here, "in/a.jpg")
    with pytest.raises(UsageError, match="in: is a folder") as caught:
        sources(ask("in"))
    assert "-r" in caught.value.hint
    with pytest.raises(UsageError, match="needs an output folder") as caught:
        sources(ask("in", recursive=True, output=None))
    assert "-o" in caught.value.hint


def test_photos_come_in_natural_order_before_those_of_folders(here: Path) -> None:
    make(here, "in/a10.jpg", "in/a2.jpg", "in/a2.cr2", "in/a2-1.jpg", "in/Day 10/x.jpg", "in/day 9/x.jpg", "in/z.jpg")
    assert belows(ask("in", recursive=True)) == [
        "a2.cr2",
        "a2.jpg",
        "a2-1.jpg",
        "a10.jpg",
        "z.jpg",
        "day 9/x.jpg",
        "Day 10/x.jpg",
    ]


def test_what_is_no_picture_and_what_is_hidden_is_left_out(here: Path) -> None:
    make(here, "in/wrong.jpg", "in/notes.txt", "in/a.jpg.xmp", "in/._a.jpg", "in/.DS_Store", "in/.git/a.jpg")
    make(here, "in/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "in/#recycle/b.jpg", "in/$RECYCLE.BIN/c.jpg")
    make(here, "in/.kbnet-x.partial", "in/.kbnet-journal.jsonl", ".photos/a.jpg")
    write_picture(here / "in/unnamed")
    assert belows(ask("in", recursive=True)) == ["unnamed", "wrong.jpg"]
    assert paths(ask(".photos", "in/@eaDir", recursive=True)) == [
        ".photos/a.jpg",
        "in/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
    ]


def test_windows_hides_by_an_attribute(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(here, "in/a.jpg", "in/h.jpg", "in/h/b.jpg", "in/s/c.jpg")
    monkeypatch.setattr(tree, "_ON_WINDOWS", True)
    monkeypatch.setattr(tree, "_attributes", lambda entry: 0x22 if entry.name.startswith("h") else 0x20)
    assert belows(ask("in", recursive=True)) == ["a.jpg", "s/c.jpg"]


def test_what_is_neither_file_nor_folder_is_never_opened(here: Path) -> None:
    make(here, "in/a.jpg")
    os.mkfifo(here / "in/pipe")
    os.mkfifo(here / "in/pipe.jpg")
    (here / "in/null.jpg").symlink_to("/dev/null")
    assert belows(ask("in", recursive=True)) == ["a.jpg"]


def test_the_output_folder_is_not_gone_into_however_it_is_reached(here: Path) -> None:
    make(here, "in/a.jpg", "in/out/old.jpg", "in/b/c.jpg")
    (here / "in/link").symlink_to("out")
    (here / "elsewhere").symlink_to("in/out")
    for output in ("in/out", here / "in/out", "in/b/../out", "elsewhere"):
        for asked in (ask("in", recursive=True, output=output), ask("in/**/*.jpg", output=output)):
            assert belows(asked) == ["a.jpg", "b/c.jpg"]
    assert belows(ask("in/out", recursive=True, output="in/out")) == ["old.jpg"]


@pytest.mark.parametrize(
    "name",
    [
        "café.jpg",
        "cafe\u0301.jpg",
        "写真.jpg",
        "صورة.jpg",
        "two\nlines.jpg",
        "-o.jpg",
        "a b'\".jpg",
        "\udcff\udcfe.jpg",
    ],
)
def test_names_in_any_script_and_of_any_bytes(name: str, here: Path) -> None:
    try:
        make(here, f"in/{name}")
    except OSError:
        pytest.skip("this file system takes no such names")
    assert paths(ask("in", recursive=True)) == [f"in/{name}"]
    assert paths(ask("in/*.jpg")) == [f"in/{name}"]
    assert paths(Asked((), list_file=STDIN), os.fsencode(f"in/{name}\0")) == [f"in/{name}"]


# Links


def test_links_to_files_are_photos_and_dangling_ones_stay_in(here: Path) -> None:
    make(here, "in/a.jpg")
    (here / "in/b.jpg").symlink_to("a.jpg")
    (here / "in/c.jpg").symlink_to("nowhere")
    (here / "in/d.jpg").symlink_to("d.jpg")
    (here / "in/e").symlink_to("nowhere")
    assert belows(ask("in", recursive=True)) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_folders_are_gone_into_once_and_circles_end(here: Path) -> None:
    make(here, "in/z/deep/a.jpg", "other/o.jpg")
    (here / "in/a-link").symlink_to("z")
    (here / "in/m1").symlink_to(here / "other")
    (here / "in/m2").symlink_to(here / "other")
    (here / "in/z/deep/up").symlink_to("../..")
    (here / "other/back").symlink_to(here / "in")
    found = sources(ask("in", recursive=True))
    assert [source.below.as_posix() for source in found] == ["m1/o.jpg", "z/deep/a.jpg"]
    assert belows(ask("in/**/*.jpg")) == ["m1/o.jpg", "z/deep/a.jpg"]
    (here / "way").symlink_to("in")
    assert paths(ask("way", recursive=True)) == ["way/m1/o.jpg", "way/z/deep/a.jpg"]


# What cannot be looked into


@pytest.fixture
def closed(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without permission, for root as well."""
    folder = make(here, "in/shut/a.jpg", "in/z/b.jpg", "in/unreadable") / "in/shut"
    (here / "in/unreadable").chmod(0)
    folder.chmod(0)
    if os.access(folder, os.R_OK):
        real_scan, real_open = os.scandir, Path.open

        def scan(path: str | Path) -> object:
            if Path(path) == Path("in/shut"):
                raise PermissionError(13, "Permission denied", str(path))
            return real_scan(path)

        def opened(path: Path, *rest: object) -> object:
            if path.name == "unreadable":
                raise PermissionError(13, "Permission denied", str(path))
            return real_open(path, *rest)  # type: ignore[call-overload]

        monkeypatch.setattr(os, "scandir", scan)
        monkeypatch.setattr(Path, "open", opened)
    yield folder
    folder.chmod(0o700)


def test_a_folder_without_permission_is_a_failure_and_not_a_silent_loss(closed: Path) -> None:
    for asked in (ask("in", recursive=True), ask("in/**")):
        unknown, failed, fine = sources(asked)
        assert unknown.path == Path("in/unreadable"), "nobody knows what it is, so it has to fail"
        assert unknown.error is None
        assert failed.path == Path("in/shut")
        assert failed.error is not None
        assert "in/shut: this folder cannot be looked into: Permission denied" in failed.error.message
        assert fine.path == Path("in/z/b.jpg")
    assert belows(ask("in", recursive=True, exclude=("shut", "unreadable"))) == ["z/b.jpg"]
    (top,) = sources(ask("in/shut", recursive=True))
    assert top.error is not None
    assert top.below == Path("shut")


def test_what_a_failing_disk_still_tells_is_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(here, "in/a.jpg", "in/b.jpg")
    real = os.scandir

    class Failing:
        def __init__(self, path: object) -> None:
            self.real = real(path)  # type: ignore[call-overload]

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *_rest: object) -> None:
            self.real.close()

        def __iter__(self) -> Iterator[object]:
            yield next(iter(self.real))
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", Failing)
    photo, failed = sources(ask("in", recursive=True))
    assert photo.path.suffix == ".jpg"
    assert photo.error is None
    assert failed.error is not None
    assert "Input/output error" in failed.error.message


@pytest.fixture
def deep(here: Path) -> Iterator[int]:
    """A tree deeper than calls go, and then than paths are long, with a photo in each folder; how deep it is."""
    names = ["d"] * (sys.getrecursionlimit() + 100) + ["e" * 100] * 40
    place = os.open(make(here, "in/top.jpg") / "in", os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=place)
        inner = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        os.close(place)
        place = inner
    yield len(names)
    for name in reversed(names):  # pytest's own way of removing folders does not reach so deep
        outer = os.open("..", os.O_RDONLY, dir_fd=place)
        os.unlink("a.jpg", dir_fd=place)
        os.rmdir(name, dir_fd=outer)
        os.close(place)
        place = outer
    os.close(place)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how long a path may be is the system's")
def test_a_tree_deeper_than_calls_go_and_paths_are_long(deep: int, here: Path) -> None:
    longest = os.pathconf(here, "PC_PATH_MAX")
    for asked in (ask("in", recursive=True, exclude=("old/", "x/**/y")), ask("in/**/*.jpg")):
        *reached, failed = sources(asked)
        assert failed.error is not None
        assert "too long" in failed.error.message
        assert len(os.fspath(failed.path)) >= longest
        assert sys.getrecursionlimit() < len(reached) < deep
        assert all(source.error is None for source in reached)
        assert failed.path.parent == reached[-1].path.parent, "nothing between them is lost"


# Lists


def test_what_is_listed_in_the_output_folder_is_left_out(here: Path) -> None:
    make(here, "1.jpg", "sub/2.jpg", "out/1.jpg", "out/sub/2.jpg", "outer/3.jpg")
    (here / "link").symlink_to("out")
    listed = b"./1.jpg\nsub/2.jpg\nout/1.jpg\nlink/sub/2.jpg\nsub/../out/1.jpg\nouter/3.jpg\nout\n"
    asked = ask(list_file=STDIN, recursive=True)
    assert paths(asked, listed) == ["1.jpg", "sub/2.jpg", "outer/3.jpg"]
    assert paths(ask(list_file=STDIN, output="new"), b"out/1.jpg\n") == ["out/1.jpg"]
    assert paths(ask("out/1.jpg", list_file=STDIN), b"1.jpg") == ["out/1.jpg", "1.jpg"], "what is named is meant"


def test_a_list_may_be_all_of_the_output_folder_or_of_what_is_below_it(here: Path) -> None:
    make(here, "1.jpg", "out/1.jpg", "out/2.jpg")
    assert paths(ask(list_file=STDIN), b"out/1.jpg\nout/2.jpg") == ["out/1.jpg", "out/2.jpg"]
    for output in (".", here.parent):
        assert paths(ask(list_file=STDIN, output=output), f"1.jpg\n{__file__}".encode()) == ["1.jpg", __file__]


# Patterns that the shell left


def test_a_pattern_finds_photos_and_mirrors_what_is_below_its_last_plain_folder(here: Path) -> None:
    make(here, "p/x/10.CR2", "p/x/2.cr2", "p/1.cr2", "p/1.jpg", "p/y/z/3.cr2", "p/.h/4.cr2", "q/5.cr2", "p/t.txt")
    assert sources(ask("p/**/*.cr2", output=None)) == [
        Source(Path(f"p/{name}"), Path(name), found=True) for name in ("1.cr2", "x/2.cr2", "x/10.CR2", "y/z/3.cr2")
    ]
    assert belows(ask("p/*/*.cr2")) == ["x/2.cr2", "x/10.CR2"]
    assert belows(ask("?/[x-y]/**/[!1]*")) == ["p/x/2.cr2", "p/y/z/3.cr2"]
    assert belows(ask(here / "*" / "5.*")) == ["q/5.cr2"]
    assert belows(ask("p/.h/*")) == ["4.cr2"]
    assert belows(ask("p/*")) == ["1.cr2", "1.jpg"], "folders that match are left out without -r"
    assert belows(ask("p/*", recursive=True)) == ["1.cr2", "1.jpg", "x/2.cr2", "x/10.CR2", "y/z/3.cr2"]
    assert belows(ask("p/**/*.cr2", exclude=("x",), include=("*.cr2",))) == ["1.cr2", "y/z/3.cr2"]


def test_a_pattern_does_not_go_where_it_cannot_match(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(here, "p/x/a.jpg", "p/x/deep/b.jpg", "q/c.jpg")
    scanned = scans(monkeypatch)
    assert belows(ask("p*/x/*.jpg")) == ["p/x/a.jpg"]
    assert scanned == [".", "p", "p/x"]


def test_a_pattern_that_is_a_file_is_that_file(here: Path) -> None:
    make(here, "a[1].jpg", "a1.jpg")
    assert sources(ask("a[1].jpg")) == [Source(Path("a[1].jpg"), Path("a[1].jpg"))]
    (here / "a[1].jpg").unlink()
    assert paths(ask("a[1].jpg")) == ["a1.jpg"]
    (here / "b*.jpg").symlink_to("nowhere")
    assert paths(ask("b*.jpg")) == ["b*.jpg"]


def test_a_pattern_that_matches_nothing_says_so(here: Path) -> None:
    make(here, "notes.txt")
    for nothing in ("*.jpg", "no/where/*.jpg", "*.txt"):
        with pytest.raises(UsageError, match="no such file, and no photo matches") as caught:
            sources(ask(nothing))
        assert "-r" in caught.value.hint


# Include and exclude


def test_include_and_exclude_are_of_names_and_of_paths(here: Path) -> None:
    make(here, "in/A.JPG", "in/b.cr2", "in/raw/c.cr2", "in/raw/c.jpg", "in/old/d.jpg", "in/x/old/e.jpg", "in/x/old.jpg")

    def chosen(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> str:
        return " ".join(belows(ask("in", recursive=True, include=include, exclude=exclude)))

    assert chosen(("*.jpg",)) == "A.JPG old/d.jpg raw/c.jpg x/old.jpg x/old/e.jpg"
    assert chosen(("*.jpg", "B.*")) == "A.JPG b.cr2 old/d.jpg raw/c.jpg x/old.jpg x/old/e.jpg"
    assert chosen(("*.jpg",), ("a.*", "old*")) == "raw/c.jpg", "an exclude wins, of folders too"
    assert chosen((), ("old/",)) == "A.JPG b.cr2 raw/c.cr2 raw/c.jpg x/old.jpg"
    assert chosen((), ("/old",)) == chosen((), ("./old/**",)) == "A.JPG b.cr2 raw/c.cr2 raw/c.jpg x/old.jpg x/old/e.jpg"
    assert chosen(("raw/*.jpg",)) == chosen(("/raw/c.j?g",)) == "raw/c.jpg"
    assert chosen(("x/**",)) == chosen(("x/",)) == "x/old.jpg x/old/e.jpg"
    assert chosen(("**/old/*",)) == chosen(("old/",)) == "old/d.jpg x/old/e.jpg"
    assert chosen(("*/*/*",)) == "x/old/e.jpg"
    assert chosen(("nothing",)) == ""


def test_include_and_exclude_are_of_named_and_listed_files_too(here: Path) -> None:
    assert paths(ask("x/a.jpg", "b.png", include=("*.JPG",))) == ["x/a.jpg"]
    assert paths(ask("x/a.jpg", "b.png", exclude=("b.*",))) == ["x/a.jpg"]
    asked = Asked((), list_file=STDIN, exclude=("old/", "n.jpg"))
    assert paths(asked, b"x/old/a.jpg\nold\nx/b.jpg\n/abs/n.jpg\n/old/m.jpg") == ["old", "x/b.jpg", "/old/m.jpg"]


def test_an_excluded_folder_is_not_gone_into(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(here, "in/a.jpg", "in/skip/deep/b.jpg")
    scanned = scans(monkeypatch)
    assert belows(ask("in", recursive=True, exclude=("SKIP",))) == ["a.jpg"]
    assert scanned == ["in"]


def test_patterns_do_not_mind_how_an_accent_is_written(here: Path) -> None:
    assert pattern("caf\u00e9*").matches(("CAFE\u0301.jpg",))
    assert pattern("cafe\u0301*").matches(("Caf\u00e9.jpg",))


@pytest.mark.parametrize("empty", ["", "/", "./"])
def test_a_pattern_of_nothing_is_refused(empty: str) -> None:
    with pytest.raises(UsageError, match="is no pattern"):
        sources(Asked((), include=(empty,)))


@given(st.text("ab/", max_size=12), st.text("ab*?/", min_size=1, max_size=8).filter(lambda text: text.strip("/")))
def test_patterns_agree_with_a_slow_reading(path: str, text: str) -> None:
    names = tuple(name for name in path.split("/") if name) or ("a",)
    read = pattern(text)

    def slow(parts: tuple[str, ...], left: tuple[str, ...]) -> bool:
        if not parts:
            return not left
        if parts[0] == "**":
            return slow(parts[1:], left) or (bool(left) and slow(parts, left[1:]))
        return bool(left) and letters(parts[0], left[0]) and slow(parts[1:], left[1:])

    def letters(sign: str, name: str) -> bool:
        if not sign:
            return not name
        if sign[0] == "*":
            return letters(sign[1:], name) or (bool(name) and letters(sign, name[1:]))
        return bool(name) and sign[0] in ("?", name[0]) and letters(sign[1:], name[1:])

    assert read.matches(names) == slow(read.parts, names)


# Lists


def test_a_list_keeps_its_order_and_mirrors_relative_paths(here: Path) -> None:
    content = (
        b"\xef\xbb\xbfz.jpg\r\n\n  \nsub/b.jpg\n./sub/a.jpg\nsub/b.jpg\n/abs/c.jpg\n../up/d.jpg\n'q' x.jpg\n# e.jpg\n"
    )
    found = sources(Asked((Path("first.jpg"),), list_file=STDIN), stdin=io.BytesIO(content))
    assert [(source.path.as_posix(), source.below.as_posix()) for source in found] == [
        ("first.jpg", "first.jpg"),
        ("z.jpg", "z.jpg"),
        ("sub/b.jpg", "sub/b.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("/abs/c.jpg", "c.jpg"),
        ("../up/d.jpg", "d.jpg"),
        ("'q' x.jpg", "'q' x.jpg"),
        ("# e.jpg", "# e.jpg"),
    ]
    assert not any(source.found for source in found)


def test_a_list_with_a_nul_has_any_names(here: Path) -> None:
    names = ["two\nlines.jpg", " ", "cr\r", "*.jpg", "\udcff.jpg"]
    assert paths(Asked((), list_file=STDIN), os.fsencode("\0".join(names) + "\0\0")) == names
    (here / "list").write_bytes(b"one.jpg\0")
    assert paths(Asked((), list_file=Path("list"))) == ["one.jpg"]


def test_a_list_may_come_from_powershell(here: Path) -> None:
    for order, mark in (("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")):
        content = mark + "ä.jpg\r\nsub/写.jpg\r\n".encode(order)
        assert paths(Asked((), list_file=STDIN), content) == ["ä.jpg", "sub/写.jpg"]


def test_folders_of_a_list_are_as_on_the_command_line(here: Path) -> None:
    make(here, "in/b10.jpg", "in/b9.jpg")
    with pytest.raises(UsageError, match="in: is a folder"):
        sources(Asked((), list_file=STDIN), stdin=io.BytesIO(b"in\n"))
    asked = Asked((), recursive=True, list_file=STDIN, output=Path("out"))
    assert belows(asked, b"x.jpg\nin/\n") == ["x.jpg", "b9.jpg", "b10.jpg"]


def test_an_empty_list_has_no_photos_and_a_missing_one_is_wrong(here: Path) -> None:
    assert paths(Asked((), list_file=STDIN), b"\n\n") == []
    with pytest.raises(UsageError, match="nowhere: the list of photos cannot be read: No such file"):
        sources(Asked((), list_file=Path("nowhere")))
    with pytest.raises(UsageError, match="cannot be read"):
        sources(Asked((), list_file=here))
    with pytest.raises(UsageError, match="both read standard input"):
        sources(Asked((STDIN,), list_file=STDIN), stdin=io.BytesIO(b"a.jpg"))


# The order of names


def test_natural_order_in_other_scripts_and_of_huge_numbers() -> None:
    ordered = [
        "1.jpg",
        "٢.jpg",
        "3.jpg",
        "a.jpg",
        "a (2).jpg",
        "a1.jpg",
        "A01.jpg",
        "a2.jpg",
        "a" + "9" * 5000,
        "Ab.jpg",
        "b.jpg",
        "B.png",
        "é.jpg",
        "f.jpg",
        "z2024.05.9",
        "z2024.05.10",
    ]
    places = {name: at for at, name in enumerate(sorted(ordered, key=naming.natural_key))}
    for first, second in (("1.jpg", "٢.jpg"), ("٢.jpg", "3.jpg"), ("a.jpg", "a (2).jpg"), ("a.jpg", "a1.jpg")):
        assert places[first] < places[second]
    for first, second in (("A01.jpg", "a2.jpg"), ("é.jpg", "f.jpg"), ("b.jpg", "B.png"), ("z2024.05.9", "z2024.05.10")):
        assert places[first] < places[second]


@given(st.lists(st.text("aAbB01²٣.-_ ä\u0308\udcff", max_size=6), unique=True))
def test_natural_order_is_total(names: list[str]) -> None:
    backwards = list(reversed(names))
    assert len({repr(naming.natural_key(name)) for name in names}) == len(names)
    assert sorted(backwards, key=naming.natural_key) == sorted(names, key=naming.natural_key)
