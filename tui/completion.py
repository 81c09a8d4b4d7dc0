"""Completion scripts for bash, zsh and fish, made from the command line's own parser. Pure.

argparse has no public way to list what a parser knows, so its lists are read as they are.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple


class _Words(NamedTuple):
    """What can follow a subcommand."""

    help: str
    options: list[tuple[str, str]]  # with their help
    choices: list[str]
    files: bool
    jobs: bool
    valued: list[str]
    """Options that a value follows."""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for one of bash, zsh, fish."""
    commands = _commands(parser)
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser.prog, commands, _options(parser))


def _commands(parser: argparse.ArgumentParser) -> dict[str, _Words]:
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    return {name: _words(sub, helps.get(name, "")) for name, sub in subparsers.choices.items()}


def _words(parser: argparse.ArgumentParser, help_text: str) -> _Words:
    positional = [a for a in parser._actions if not a.option_strings]
    choices = [str(choice) for action in positional for choice in action.choices or ()]
    files = any(action.dest in ("files", "file") for action in positional)
    jobs = any(action.dest in ("job", "run") for action in positional)
    valued = [name for a in parser._actions if a.nargs != 0 for name in a.option_strings]
    return _Words(help_text, _options(parser), choices, files, jobs, valued)


def _options(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    return [
        (name, action.help or "")
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--")
    ]


def _name(prog: str) -> str:
    return "_" + "".join(c if c.isalnum() else "_" for c in prog)


_PATHS = ("--workspace", "--out", "--model", "--input", "--add")
"""Options whose value is a path."""


def _bash(prog: str, commands: dict[str, _Words], options: list[tuple[str, str]]) -> str:
    cases = "\n".join(
        f'        {name}) options="{" ".join(o for o, _ in w.options)}"; words="{" ".join(w.choices)}"; '
        f"files={int(w.files)}; jobs={int(w.jobs)};;"
        for name, w in commands.items()
    )
    valued = sorted({name for w in commands.values() for name in w.valued} - set(_PATHS))
    return f"""# bash completion of {prog}: eval "$({prog} completion bash)"
{_name(prog)}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} command= options= words= files=0 jobs=0 i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            {"|".join(commands)}) command=${{COMP_WORDS[i]}}; break;;
        esac
    done
    case ${{COMP_WORDS[COMP_CWORD-1]}} in
        {"|".join(_PATHS)}) COMPREPLY=($(compgen -f -- "$cur")); return;;
        {"|".join(valued)}) COMPREPLY=(); return;;
    esac
    case $command in
{cases}
        *) options="{" ".join(o for o, _ in options)}"; words="{" ".join(commands)}";;
    esac
    if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "$options" -- "$cur")); return; fi
    if ((jobs)); then
        for i in results/*/run.json; do
            if [[ -f $i ]]; then i=${{i%/run.json}}; words+=" ${{i#results/}}"; fi
        done
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if ((files)); then COMPREPLY+=($(compgen -f -- "$cur")); fi
}}
complete -o filenames -F {_name(prog)} {prog}
"""


def _quoted(text: str) -> str:
    return "'" + text.replace("%%", "%").replace("'", "'\\''") + "'"


def _zsh(prog: str, commands: dict[str, _Words], options: list[tuple[str, str]]) -> str:
    def described(word: str, text: str) -> str:
        return _quoted(f"{word}:{text}")

    names = " ".join(described(name, w.help) for name, w in commands.items())
    own = " ".join(described(option, text) for option, text in options)
    cases = "\n".join(
        f"        {name}) found=({' '.join([*(described(o, h) for o, h in w.options), *map(_quoted, w.choices)])}); "
        f"files={int(w.files)}; jobs={int(w.jobs)};;"
        for name, w in commands.items()
    )
    return f"""#compdef {prog}
# zsh completion of {prog}: eval "$({prog} completion zsh)"
{_name(prog)}() {{
    local -a found
    local files=0 jobs=0 command= word
    for word in ${{words[2,CURRENT-1]}}; do
        case $word in
            {"|".join(commands)}) command=$word; break;;
        esac
    done
    case $command in
{cases}
        *) found=({names} {own});;
    esac
    if ((jobs)); then found+=(results/*/run.json(N:h:t)); fi
    _describe '{prog}' found
    if ((files)) || [[ ${{words[CURRENT-1]}} == --* ]]; then _files; fi
}}
compdef {_name(prog)} {prog}
"""


def _fish(prog: str, commands: dict[str, _Words], options: list[tuple[str, str]]) -> str:
    lines = [f"# fish completion of {prog}: {prog} completion fish | source", f"complete -c {prog} -f"]
    lines += [
        f"complete -c {prog} -n __fish_use_subcommand -a {name} -d {_quoted(w.help)}" for name, w in commands.items()
    ]
    lines += [f"complete -c {prog} -l {option[2:]} -d {_quoted(text)}" for option, text in options]
    for name, w in commands.items():
        seen = f'-n "__fish_seen_subcommand_from {name}"'
        lines += [f"complete -c {prog} {seen} -l {option[2:]} -d {_quoted(text)}" for option, text in w.options]
        if w.choices:
            lines.append(f"complete -c {prog} {seen} -a {_quoted(' '.join(w.choices))}")
        if w.files:
            lines.append(f"complete -c {prog} {seen} -F")
        if w.jobs:
            lines.append(f"complete -c {prog} {seen} -a '(for f in results/*/run.json; basename (dirname $f); end)'")
    return "\n".join(lines) + "\n"
