"""The library: what is read, what is left out, what is found, and that nothing outside can be reached."""

import os
import stat
from pathlib import Path

import pytest

from perdure.cli.library import MAX_FILE_BYTES, Library, LibraryError


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


class TestReading:
    def test_text_files_are_read_and_the_rest_is_left_alone(self, tmp_path: Path) -> None:
        for name in ("a.md", "b/c.py", "README", ".hidden.md", ".git/x.md", "node_modules/x.md", "x.png", "env/y.md"):
            write(tmp_path, **{name.replace("/", "__").replace(".", "_DOT_"): "text"})
        write(tmp_path, mine__pyvenv_DOT_cfg="x", mine__lib_DOT_md="text")
        assert sorted(Library.open(tmp_path).files) == ["README", "a.md", "b/c.py"]

    def test_a_binary_file_is_left_out_and_named(self, tmp_path: Path) -> None:
        write(tmp_path, a_DOT_md="text")
        (tmp_path / "b.md").write_bytes(b"\x00\x01\x02")
        (tmp_path / "c.md").write_bytes(bytes(range(128, 256)) * 4)
        library = Library.open(tmp_path)
        assert list(library.files) == ["a.md"]
        assert library.skipped.counts == {"is a binary file": 2}

    def test_a_file_too_large_or_empty_is_left_out(self, tmp_path: Path) -> None:
        write(tmp_path, a_DOT_md="text", b_DOT_md="x" * (MAX_FILE_BYTES + 1), c_DOT_md=" \n")
        assert Library.open(tmp_path).skipped.last == {"is larger than 1 MB": "b.md", "is empty": "c.md"}

    def test_other_encodings_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.md").write_text("Grüße", encoding="utf-16")
        (tmp_path / "b.md").write_text("Grüße", encoding="utf-8-sig")
        (tmp_path / "c.md").write_bytes("A long line with one odd letter: Grüße".encode("latin-1"))
        files = Library.open(tmp_path).files
        assert files["a.md"] == files["b.md"] == ["Grüße"]
        assert files["c.md"][0].startswith("A long line")

    def test_a_single_file_is_a_library_whatever_its_name(self, tmp_path: Path) -> None:
        write(tmp_path, notes_DOT_log="The boat is due on Monday.")
        library = Library.open(tmp_path / "notes.log")
        assert [(one.path, one.start) for one in library.search("boat due")] == [("notes.log", 1)]

    def test_line_numbers_agree_with_editors(self, tmp_path: Path) -> None:
        (tmp_path / "a.md").write_bytes(b"one\r\n\x0c\r\ntwo\x0bb\r\n\r\nthree sloops\r\n")
        hit = Library.open(tmp_path).lines("a.md", 5, 5)
        assert (hit.start, hit.end, hit.text) == (5, 5, "three sloops")

    def test_a_name_that_is_not_unicode_is_left_out(self, tmp_path: Path) -> None:
        write(tmp_path, a_DOT_md="text")
        (tmp_path / os.fsdecode(b"gr\xfc\xdfe.md")).write_text("text", encoding="utf-8")
        assert Library.open(tmp_path).skipped.last == {"has a name that is not UTF-8": "gr??e.md"}

    def test_folders_too_deep_are_left_out(self, tmp_path: Path) -> None:
        write(tmp_path, a_DOT_md="text", **{"__".join(["d"] * 12) + "__b_DOT_md": "text"})
        assert list(Library.open(tmp_path).skipped.counts) == ["lies too deep"]


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: path / "nothing", "There is no file or folder"),
            (lambda path: path, "There are no text files below"),
            (lambda path: (path / "b.md").write_bytes(b"\0") and path / "b.md", "is a binary file"),
            (lambda path: (path / "e.md").write_bytes(b"") or path / "e.md", "is empty"),
            (lambda path: os.mkfifo(path / "f.md") or path / "f.md", "neither a file nor a folder"),
            (lambda path: os.symlink(path / "l.md", path / "l.md") or path / "l.md", "Cannot open"),
        ],
        ids=["missing", "no text", "binary", "empty", "pipe", "link to itself"],
    )
    def test_each_says_what_is_wrong(self, tmp_path: Path, make, message: str) -> None:
        with pytest.raises(LibraryError, match=message):
            Library.open(make(tmp_path))

    def test_an_unreadable_file_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # As root every file is readable, so the refusal of the system is played.
        write(tmp_path, a_DOT_md="text", b_DOT_md="text")
        read = Path.read_bytes

        def refuse(path: Path) -> bytes:
            if path.name == "b.md":
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
        assert Library.open(tmp_path).skipped.last == {"cannot be read (permission denied)": "b.md"}
        with pytest.raises(LibraryError, match=r"b\.md' cannot be read \(permission denied\)"):
            Library.open(tmp_path / "b.md")


class TestSafety:
    def test_links_out_of_the_folder_are_not_followed(self, tmp_path: Path) -> None:
        inside, outside = tmp_path / "inside", tmp_path / "outside"
        write(inside, a_DOT_md="text")
        write(outside, secret_DOT_md="secret")
        (inside / "link.md").symlink_to(outside / "secret.md")
        (inside / "folder").symlink_to(outside)
        (inside / "loop").symlink_to(inside)
        (inside / "good.md").symlink_to(inside / "a.md")
        library = Library.open(inside)
        assert sorted(library.files) == ["a.md", "good.md"]
        assert library.skipped.counts == {"leads out of the folder": 2}

    @pytest.mark.parametrize("path", ["../outside.md", "/etc/passwd", "a.md/../../outside.md", "", ".", "b.md", "A.MD"])
    def test_only_files_of_the_library_can_be_read(self, tmp_path: Path, path: str) -> None:
        write(tmp_path, outside_DOT_md="secret")
        library = Library.open(write(tmp_path / "inside", a_DOT_md="text"))
        with pytest.raises(KeyError):
            library.lines(path, 1, 1)

    def test_lines_that_do_not_exist_are_an_error(self, tmp_path: Path) -> None:
        library = Library.open(write(tmp_path, a_DOT_md="one\ntwo\n"))
        assert library.lines("./a.md", -5, 99).text == "one\ntwo"
        for start, end in ((3, 3), (2, 1)):
            with pytest.raises(IndexError):
                library.lines("a.md", start, end)

    def test_the_library_does_not_change_the_folder(self, tmp_path: Path) -> None:
        write(tmp_path, a_DOT_md="text")
        before = stat.S_IMODE((tmp_path / "a.md").stat().st_mode), os.listdir(tmp_path)
        Library.open(tmp_path).search("text")
        assert (stat.S_IMODE((tmp_path / "a.md").stat().st_mode), os.listdir(tmp_path)) == before


class TestSearching:
    TEXT = "# Sailing\n\n" + "\n".join(
        f"## Part {n}\n\nAbout {word}, in two\nlines of text.\n"
        for n, word in enumerate(("sloops", "ketches", "yawls"))
    )

    def test_the_best_passage_comes_first_with_its_lines(self, tmp_path: Path) -> None:
        library = Library.open(write(tmp_path, a_DOT_md=self.TEXT, b_DOT_md="Nothing of that kind.\n"))
        hit = library.search("What is a ketch?")[0]
        assert (hit.path, hit.start, hit.end) == ("a.md", 8, 11)
        assert hit.text == "\n".join(self.TEXT.split("\n")[7:11])

    def test_headings_above_count(self, tmp_path: Path) -> None:
        text = "# Mooring\n\n## Steps\n\nTie the bow line.\n\n# Cooking\n\n## Steps\n\nPeel the onion.\n"
        library = Library.open(write(tmp_path, a_DOT_md=text))
        assert "bow line" in library.search("steps of mooring")[0].text

    def test_nothing_is_found_for_words_that_do_not_occur(self, tmp_path: Path) -> None:
        library = Library.open(write(tmp_path, a_DOT_md=self.TEXT))
        assert library.search("helicopters") == library.search("") == library.search("the of") == []

    def test_one_file_does_not_fill_the_answer(self, tmp_path: Path) -> None:
        many = "\n\n".join(f"## {n}\n\nsloops and sloops" for n in range(9))
        library = Library.open(write(tmp_path, a_DOT_md=many, b_DOT_md="One of the sloops, and much else besides.\n"))
        assert [one.path for one in library.search("sloops")] == ["a.md", "a.md", "a.md", "b.md"]

    def test_a_file_without_blank_lines_is_cut(self, tmp_path: Path) -> None:
        library = Library.open(write(tmp_path, a_DOT_md="\n".join(["x" * 100] * 1000 + ["a sloop"])))
        hit = library.search("sloop")[0]
        assert hit.end == 1001
        assert hit.start > 900
