"""How each shell asks what it could complete, and how it is answered.

Its script calls `kbnet` with the words of the line up to the cursor, as they are typed, and _KBNET_COMPLETE set to the
shell's name.
"""

import os
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal

from kbnet_cli.cli import completing

Shell = Literal["bash", "zsh", "fish"]
VARIABLE = "_KBNET_COMPLETE"
"""Names the shell that asks."""

SCRIPTS: dict[Shell, str] = {
    "bash": """\
_kbnet() {
    local answer
    mapfile -t answer < <(_KBNET_COMPLETE=bash "$1" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    case ${answer[0]} in
        default) compopt -o default ;;
        files) compopt -o filenames ;;
    esac
    COMPREPLY=("${answer[@]:1}")
}
complete -F _kbnet kbnet
""",
    "zsh": """\
#compdef kbnet
_kbnet() {
    local -a answer words_found folders files
    answer=("${(@f)$(_KBNET_COMPLETE=zsh $words[1] "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $answer[1] == default ]]; then
        _default
        return
    fi
    words_found=("${(@)${(@M)answer:#word$'\\t'*}#word$'\\t'}")
    folders=("${(@)${(@M)answer:#folder$'\\t'*}#folder$'\\t'}")
    files=("${(@)${(@M)answer:#file$'\\t'*}#file$'\\t'}")
    local -i found=1
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    (( $#words_found )) && _describe -t values value words_found && found=0
    if (( $#folders + $#files )); then
        compset -P '*/'
        (( $#folders )) && compadd -q -S / -a folders && found=0
        (( $#files )) && compadd -a files && found=0
    fi
    return found
}
if [[ $funcstack[1] == _kbnet ]]; then
    _kbnet "$@"
else
    compdef _kbnet kbnet
fi
""",
    "fish": """\
function __kbnet_complete
    set -lx _KBNET_COMPLETE fish
    set -l before (commandline -opc)
    set -l last (commandline -ct)
    command kbnet $before[2..] "$last" 2>/dev/null
end
complete --command kbnet --no-files --keep-order --arguments '(__kbnet_complete)'
""",
}
"""To be read by each shell at its start. (zsh's #compdef is for a folder of its fpath.)"""


def show(shell: Shell) -> str:
    """Return the script that makes a shell complete."""
    return SCRIPTS[shell]


def answer(root: Any) -> None:
    """Answer the shell that asks in the environment, on standard output."""
    shells = {"bash": _for_bash, "zsh": _for_zsh, "fish": _for_fish}
    shell = shells.get(os.environ.get(VARIABLE, ""))
    lines = () if shell is None else shell(root, sys.argv[1:] or [""])
    # Names that are no text of the terminal's come out as the bytes they are.
    sys.stdout.buffer.write(b"".join(os.fsencode(line) + b"\n" for line in lines))
    sys.stdout.buffer.flush()


def _for_bash(root: Any, words: list[str]) -> Iterator[str]:
    """Give how bash is to take the candidates, then each without what bash holds for words of their own."""
    if "$" in words[-1] or "`" in words[-1]:  # bash itself knows what stands there
        yield "default"
        return
    joined, kept = _joined(words)
    found = list(completing.candidates(root, [bare(word) for word in joined]))
    yield "words" if all(one.kind == "word" for one in found) else "files"
    apart = len(bare(joined[-1])) - kept
    # Where both are in a path, bash quotes the one that it should leave alone, and not the other.
    homeless = any(one.value.startswith("~") and "$" in one.value for one in found)
    for one in found:
        yield (os.path.expanduser(one.value) if homeless else one.value)[apart:]  # noqa: PTH111 - as it is typed


def _joined(words: list[str]) -> tuple[list[str], int]:
    """Join what bash takes apart at = and :, and tell how many characters of the last word it holds for that word."""
    joined: list[str] = []
    for number, word in enumerate(words):
        breaks = re.fullmatch("[=:]+", word) is not None
        if joined and (breaks or (number and re.fullmatch("[=:]+", words[number - 1]))):
            joined[-1] += word
        else:
            joined.append(word)
    apart = len(joined) < len(words) and re.fullmatch("[=:]+", words[-1]) is not None
    return joined, 0 if apart else len(bare(words[-1]))


def _for_zsh(root: Any, words: list[str]) -> Iterator[str]:
    """Give kind, value and help; of paths only the name, because zsh keeps the folder as it is typed."""
    if "$" in words[-1] or "`" in words[-1]:
        yield "default"
        return
    place = completing.locate(root, [bare(word) for word in words])
    long = place.prefix.startswith("--")
    for one in completing.at(place):
        if one.kind == "word":
            value = one.value if long else place.prefix + one.value
            yield f"word\t{value.translate(_ESCAPED)}" + (f":{one.help.translate(_ESCAPED)}" if one.help else "")
        else:
            yield f"{one.kind}\t{one.value.rpartition('/')[2]}"


_ESCAPED = str.maketrans({":": "\\:", "\\": "\\\\"})


def _for_fish(root: Any, words: list[str]) -> Iterator[str]:
    """Give values with their help."""
    for one in completing.candidates(root, [bare(word) for word in words]):
        yield one.value + ("/" if one.kind == "folder" else "") + (f"\t{one.help}" if one.help else "")


def bare(word: str) -> str:
    """Return a word without the shell's quotes, of which the last may still be open."""
    found, quote, escaped = "", "", False
    for character in word:
        if escaped:
            # Between double quotes a backslash stands for itself, but before what would not.
            found += character if not quote or character in '"\\$`' else f"\\{character}"
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote, found = ("", found) if character == quote else (quote, found + character)
        elif character in "'\"":
            quote = character
        else:
            found += character
    return found
