"""What `kbnet help TOPIC` tells: prose that stands nowhere else, and tables made from the program's own.

Lines that begin with four spaces stand as they are, in the terminal and in the man page; the others are paragraphs.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

_NAMES = """\
Without -o an output lies beside its input, as NAME_denoised.EXT (_derained,
_deblurred, _dejpegged). -o FILE names one output, -o FOLDER/ takes many, and
-o - is standard output. A folder that is there needs no slash.

    kbnet denoise a.jpg                        a_denoised.jpg
    kbnet denoise a.jpg b.jpg -o out/          out/a.jpg, out/b.jpg
    kbnet denoise in/ -r -o out/               in/x/a.jpg becomes out/x/a.jpg
    kbnet denoise a.jpg --name "{stem}-{done}.{ext}"       a-denoised.jpg
    find scans -name "*.jpg" -print0 | kbnet denoise --from-list - -o out/

-r takes the photos in folders, in the order in which people count (IMG_2
before IMG_10), and keeps the structure under -o. What is hidden is left out, and
so is the output folder where it lies inside. What kbnet made from the others is
left out too, where the journal knows it (kbnet help resume). --include and --exclude choose
among them by patterns such as "*.nef" or "drafts/**"; --exclude goes first. --from-list takes names
from a file or from standard input, one a line or with NUL between them.

The ending is the format's: the input's own, or that of --format; camera raw
becomes .dng. Raw and JPEG of one name go side by side: a.cr3 and a.jpg, both to
jpg and in one call, become a.cr3.jpg and a.jpg. Two calls do not know of each
other: the second finds a.jpg there already.

Nothing is overwritten unasked. An output that is there is an error of that
photo, unless --overwrite, --skip-existing or --resume says otherwise. Two inputs
that would write one output, and an output that is an input, are an error before
anything starts. --dry-run shows what would become of each.
"""
_RESUME = """\
    kbnet denoise wedding/ -r -o clean/
    kbnet denoise wedding/ -r -o clean/ --resume
    kbnet status clean/

Ctrl-C once: the photo in hand is finished, the summary is told, and the exit
code is 130; what was only read ahead is dropped. Ctrl-C twice: it stops now.
SIGTERM does the same, with 143, and so does a terminal that is closed, with 129:
start kbnet by nohup to have it go on. A call of one photo ends at the first. An
output is there whole or not at all, also after a crash or a power cut.

A folder of outputs has a journal, .kbnet-journal.jsonl: a line a photo, with
what was read, by which settings and weights, and what was written. With --resume
a photo is

    kept        if its output is there as the journal has it, and neither the
                input nor the settings have changed since
    done        if its output is missing, or it failed before
    done again  if its input or the settings have changed: our own output is
                replaced
    an error    if its output is not ours, or was changed by someone since

kbnet status FOLDER tells from the journal what is done, has failed and is left.
One run at a time works on a folder of outputs; a second one says so and ends.
That is for -r, --from-list, --watch and --resume: calls that name photos
themselves, as xargs -P and parallel make them, may share a folder.
"""
_WATCH = """\
    kbnet denoise --watch incoming/ -o clean/

Takes photos as they arrive in a folder, in the order in which they are complete:
closed by who writes them, and of a size that stays. What was there before is
done first. A photo that goes away before its turn is passed over.

Ctrl-C once finishes the photo in hand and ends, as with any other run; started
again it does what arrived meanwhile, as --resume does (kbnet help resume).
--then COMMAND runs something at the end.
"""
_PIPES = """\
As an input - is standard input, and -o - is standard output. Standard output
carries only data, a picture or the JSON of --json; words go to standard error,
and pictures never to a terminal.

    cat a.cr2 | kbnet denoise - -o - --format tif | convert - b.jpg
    ffmpeg -i in.mp4 -f image2pipe -c:v ppm - | kbnet denoise - --stream -o frames/
    find scans -name "*.nef" -print0 | kbnet denoise --from-list - -o clean/
    find scans -name "*.jpg" -print0 | xargs -0 -n 8 -P 2 kbnet denoise -o clean/
    parallel kbnet denoise {} -o clean/ ::: *.jpg

--stream takes many pictures that follow each other on standard input: PPM, PNG
or JPEG. Into a folder they become stdin-0001.png and so on; with -o - they leave
as they came, one behind the other.

--json gives a line a photo (event: photo) and one at the end (event: summary).
Where a photo failed, error has its code, message and hint.

Who reads our output and goes away ends kbnet without a word, with 141.
"""
_SPEED = """\
kbnet bench tells megapixels a second here, --dry-run what photos will take.

While the network is at work on a photo others are read and written. Photos are
read ahead only as far as the memory goes, and large ones are restored in strips.
What a pixel becomes depends on its whole tile, so another tile size is another
picture: kbnet never lowers it by itself.

bf16 is several times as fast on GPUs and processors that have it, and --precision
auto takes it there; the difference is not to be seen. tf32 is between bf16 and
fp32, on NVIDIA's GPUs from Ampere on. --device auto takes the first GPU, cuda all
that there are, one process each; -v tells what was chosen, and why.

"""
_COMPLETION = """\
bash, zsh and fish complete commands, options, weights, formats, and the names of
folders and pictures. Each line is to be run once, in the shell concerned; the
next shell completes.

bash (4.4 or newer, with the package bash-completion):

    mkdir -p ~/.local/share/bash-completion/completions
    kbnet --show-completion bash > ~/.local/share/bash-completion/completions/kbnet

zsh; the second line reads what the first one has written:

    kbnet --show-completion zsh > ~/.kbnet-completion.zsh
    echo 'autoload -Uz compinit && compinit; . ~/.kbnet-completion.zsh' >> ~/.zshrc

fish:

    mkdir -p ~/.config/fish/completions
    kbnet --show-completion fish > ~/.config/fish/completions/kbnet.fish
"""
_RAW = """\
A camera's raw file becomes a linear DNG that raw developers go on editing. For
any other format it is developed by LibRaw first, with the curve of sRGB and
without automatic brightening, and then restored.

    kbnet denoise photo.cr3                    photo_denoised.dng
    kbnet denoise photo.cr3 -o photo.tif --colour-space prophoto
    kbnet denoise card/ -r -o clean/ --sidecars

"""


@dataclass(frozen=True)
class Topic:
    """Something that people ask of."""

    title: str
    make: Callable[[], str]

    @property
    def text(self) -> str:
        """Return what there is to tell, in lines of 80 characters where it is not a table."""
        import textwrap

        parts = self.make().rstrip().split("\n\n")
        filled = (
            part if part.startswith("    ") else textwrap.fill(" ".join(part.split()), 80, break_on_hyphens=False)
            for part in parts
        )
        return "\n\n".join(filled) + "\n"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    """Lay out a table, indented by four."""
    found = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in found)
    return "".join(f"    {line.rstrip()}\n" for line in lines)


def _formats() -> str:
    from kbnet_cli.formats.table import FORMATS

    rows = [("format", "endings", "read", "written", "bits written", "alpha")]
    for format in FORMATS:
        endings = " ".join(format.extensions[:5]) + (" …" if len(format.extensions) > 5 else "")
        bits = " ".join(str(depth) + "f" * (depth == 32) for depth in format.depths)
        rows.append(
            (format.title, endings, "yes", _yes(format.written), bits or "-", _yes(format.alpha and format.written))
        )
    also = [
        f"{format.title} of {' and '.join(map(str, format.source_depths))} bits from such a file"
        for format in FORMATS
        if format.source_depths
    ]
    raw = next(format for format in FORMATS if format.name == "raw")
    return (
        "What a file is, its content says, not its name. Without --format an output has the\n"
        "format of its input; camera raw becomes DNG, and what is only read TIFF.\n\n"
        f"{_table(rows)}\n"
        "Bits, profile, EXIF, XMP and IPTC stay wherever the format can hold them; what cannot\n"
        f"be held is refused. Also written: {'; '.join(also)}.\n\n"
        f"Camera raw is what LibRaw reads:\n\n{_listed(raw.extensions)}"
    )


def _yes(given: bool) -> str:
    return "yes" if given else "no"


def _listed(words: Iterable[str]) -> str:
    """Set words in lines of 80 characters, indented by four."""
    import textwrap

    return textwrap.indent(textwrap.fill(" ".join(words), 76), "    ") + "\n"


def _weights() -> str:
    from kbnet_cli import catalogue

    rows = [("name", "task", "MB", "from")]
    for entry in catalogue.ENTRIES:
        origin = "kbnet itself" if entry.bundled else entry.sources[0].address.split("/")[2] if entry.sources else "-"
        rows.append((entry.name, entry.task, f"{entry.size_bytes / 1e6:.0f}", origin))
    usual = ", ".join(f"{task} {name}" for task, name in catalogue.DEFAULTS.items())
    return (
        "-w names weights: one of these, one that you have imported, a .safetensors or .pth\n"
        "file, or hf:OWNER/REPO/FILE[@REVISION]. They are fetched when they are first used.\n\n"
        f"{_table(rows)}\n"
        f"Without -w: {usual}.\n\n"
        "Where the last column has - no public copy is known. If you have such a file:\n\n"
        "    kbnet weights import gau_color_25.pth --as gaussian-color-25\n\n"
        "gaussian-color and gaussian-gray are those of several levels as one: --sigma chooses,\n"
        "or the noise that is found in each photo. kbnet weights list tells what is here.\n"
    )


def _settings() -> str:
    from kbnet_cli.cli.restoring import DENOISE
    from kbnet_cli.settings import CONFIG_VARIABLE, KEYS

    rule = _paragraph(DENOISE, 'What has an "env var"')
    rows = [("in the file", "option", "variable"), *((key.name, key.option, key.variable) for key in KEYS)]
    return (
        f"{rule}\n{_table(rows)}\n"
        "The file is TOML: kbnet/config.toml in the system's folder for settings (on Linux\n"
        f"~/.config), or what {CONFIG_VARIABLE} names. What has a dot stands in a table:\n\n"
        '    device = "cpu"\n\n    [weights]\n    derain = "derain"\n\n'
        "HF_TOKEN, HF_HUB_OFFLINE and the other variables of the Hub count as well.\n"
    )


def _paragraph(text: str, beginning: str) -> str:
    """Return the paragraph of a text that begins so."""
    return next(part.strip() + "\n" for part in text.split("\n\n") if part.strip().startswith(beginning))


def _raw() -> str:
    from kbnet_cli.cli.tree import parameters

    panel = [one for one in parameters("denoise") if getattr(one, "rich_help_panel", None) == "Camera raw"]
    return _RAW + _options(*(one.opts[-1] for one in panel))


def _speed() -> str:
    return _SPEED + _options("--jobs", "--memory", "--tile", "--overlap", "--device", "--precision")


def _options(*names: str) -> str:
    """Return what options say of themselves."""
    from kbnet_cli.cli.tree import parameters

    options = {name: one for one in parameters("denoise") for name in one.opts}
    return "".join(f"    {name}\n{_indented(options[name].help)}" for name in names)


def _indented(text: str) -> str:
    import textwrap

    return (
        textwrap.fill(
            " ".join(text.split()), 80, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False
        )
        + "\n"
    )


def _exit_codes() -> str:
    from kbnet_cli import errors
    from kbnet_cli.cli.restoring import DENOISE

    rows = [("code", "exit", "what it says")]
    for error in _classes(errors.KBNetError):
        if error.__module__ == errors.__name__ and error is not errors.KBNetError:
            told = " ".join(re.split("[.:]", error.__doc__ or "")[0].split())
            rows.append((error.code, str(error.exit_code), told.removeprefix("Say that ").partition(", whether")[0]))
    return (
        f"{_paragraph(DENOISE, 'Exit codes:')}\n\n"
        "An error has a message, a hint and, in --json, a code:\n\n"
        f"{_table(rows)}"
    )


def _classes(root: type[Any]) -> Iterable[type[Any]]:
    yield root
    for below in root.__subclasses__():
        yield from _classes(below)


TOPICS: dict[str, Topic] = {
    "names": Topic("which output goes where", lambda: _NAMES),
    "resume": Topic("stopping, going on, and what is done already", lambda: _RESUME),
    "watch": Topic("photos as they arrive", lambda: _WATCH),
    "pipes": Topic("kbnet between other programs", lambda: _PIPES),
    "formats": Topic("which files are read and written", _formats),
    "raw": Topic("files of cameras", _raw),
    "weights": Topic("which weights there are, and where they come from", _weights),
    "settings": Topic("config file and variables", _settings),
    "speed": Topic("time and memory: --jobs, --memory, --tile", _speed),
    "exit-codes": Topic("what the program returns, and its errors", _exit_codes),
    "completion": Topic("how the shell completes", lambda: _COMPLETION),
}
ALIASES = {"memory": "speed", "errors": "exit-codes", "config": "settings", "stream": "pipes"}
"""Other words for the same."""
