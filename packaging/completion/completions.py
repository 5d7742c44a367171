#!/usr/bin/python3
"""Writes completions for bash, zsh and fish into a folder, from what the commands say with --help.

    completions.py BIN FOLDER     BIN holds vmsgr and vmsgrd

The scripts' fixed parts lie beside this file; what follows from the help is put in the place of @CASES@ and the like.
"""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = ("vmsgr", "vmsgrd")
GLOBAL = ("--socket", "--json")                  # of vmsgr; before or after the command
WORDS = {"ROLE": "client server"}                # what the help says in words
FILES = {"FILE", "PATH"}
SECTION = re.compile(r"^(Positionals|Options|Subcommands):$")
ENTRY = re.compile(r"^  (\S.*?)(?:  +(\S.*))?$")
OPTION = re.compile(r"^((?:-\w,)?--[\w-]+)(?: (\S+))?(?: |$)")


class Option:
    def __init__(self, names, value, text):
        self.long = names.split(",")[-1]
        self.short = names.split(",")[0] if "," in names else ""
        self.value, self.text = value, text.partition(";")[0].rstrip(".")
        choices = re.search(r"\{(.*)\}", value)
        self.metavar = value.partition(":")[0]
        self.words = choices[1].replace(",", " ") if choices else WORDS.get(self.metavar, "")
        self.files = not self.words and self.metavar in FILES


class Command:
    """name: the words after the program's, '' for the program itself."""

    def __init__(self, name, help_text):
        self.name, self.options, self.commands, self.positionals = name, [], {}, []
        section, entries = None, []
        for line in help_text.splitlines():
            found = SECTION.match(line)
            if found:
                section = found[1]
            elif not line.strip():
                section = section if entries and entries[-1][2] is None else None
            elif section and ENTRY.match(line):
                entries.append([section, *ENTRY.match(line).groups()])
            elif section and entries and entries[-1][2] is None:
                entries[-1][2] = line.strip()
        for section, head, text in entries:
            if section == "Options":
                names, value = OPTION.match(head).groups()
                self.options.append(Option(names, value or "", text or ""))
            elif section == "Subcommands":
                self.commands[head] = text or ""
            else:
                self.positionals.append(head.split()[0])

    @property
    def starts_program(self):
        return "PROGRAM" in self.positionals

    @property
    def takes_files(self):
        return "FILE" in self.positionals


def read_commands(program):
    """All commands of a program, the program itself first."""
    found, waiting = [], [""]
    while waiting:
        name = waiting.pop(0)
        done = subprocess.run([program, *name.split(), "--help"], capture_output=True, text=True, check=True)
        found.append(Command(name, done.stdout))
        waiting += [f"{name} {sub}".strip() for sub in found[-1].commands]
    return found


def offered(command, everything):
    """The options that may stand after a command: its own, and those of the program."""
    if not command.name or len(everything) == 1:
        return command.options
    return command.options + [o for o in everything[0].options if o.long in GLOBAL]


def bash(program, commands):
    words, values, takes, starts = [], [], [], []
    for c in commands:
        options = " ".join(o.long for o in offered(c, commands))
        words.append(f'    "{c.name}") commands="{" ".join(c.commands)}" options="{options}" ;;')
        for o in c.options:
            if o.value:
                takes.append(o.long)
            if o.words:
                values.append(f'    "{c.name} {o.long}") words="{o.words}" ;;')
            elif o.files:
                values.append(f'    "{c.name} {o.long}") files=1 ;;')
        if c.takes_files:
            values.append(f'    "{c.name} "*) files=1 ;;')
        if c.starts_program:
            starts.append(c.name)
    globals_ = [o for o in commands[0].options if o.long in GLOBAL and o.files]
    values[0:0] = [f'    *" {o.long}") files=1 ;;' for o in globals_]
    known = [f'"{c.name}"' for c in commands[1:]]
    return {"PROGRAM": program, "KNOWN": " | ".join(known) or '"-"', "TAKES": " | ".join(sorted(set(takes))),
            "STARTS": " | ".join(starts) or '"-"', "CASES": "\n".join(words), "VALUES": "\n".join(values)}


def zsh_quote(text):
    return re.sub(r"([\[\]:\\])", r"\\\1", text).replace("'", "'\\''")


def zsh_option(o):
    names = f"({o.short} {o.long})'{{{o.short},{o.long}}}'" if o.short else o.long
    if not o.value:
        return f"'{names}[{zsh_quote(o.text)}]'"
    action = f"({o.words})" if o.words else "_files" if o.files else ""
    return f"'{names}{'=' if not o.short else ''}[{zsh_quote(o.text)}]:{zsh_quote(o.metavar)}:{action}'"


def zsh_function(program, c, commands):
    lines = [zsh_option(o) for o in offered(c, commands)]
    body = []
    if c.commands:
        lines += ["'1:command:->command'", "'*::argument:->argument'"]
        listed = " ".join(f"'{name}:{zsh_quote(text)}'" for name, text in c.commands.items())
        body = ["  case $state in", f"    command) local -a commands=({listed}); _describe command commands ;;",
                f"    argument) (( $+functions[_{program}_${{words[1]}}] )) && _{program}_${{words[1]}} ;;", "  esac"]
    elif c.starts_program:
        lines += ["'(-)1:program:_command_names -e'", "'*::argument:_normal'"]
    elif c.takes_files:
        lines += ["'1:address:'", "'2:file:_files'"]
    name = "_".join(["", program, *c.name.split()[-1:]])
    flags = "-C -S" if c.commands else "-S"
    return "\n".join([f"{name}() {{", "  local state line; local -A opt_args", f"  _arguments {flags} \\",
                      " \\\n".join(f"    {line}" for line in lines), *body, "}"])


def fish_quote(text):
    return text.replace("\\", "\\\\").replace("'", "\\'")


def fish_lines(program, commands):
    yield f"complete -c {program} -f"
    for c in commands:
        words = c.name.split()
        if words:
            seen = f"__fish_seen_subcommand_from {words[-1]}"
        else:
            seen = f"not __fish_seen_subcommand_from {' '.join(c.commands)}" if c.commands else "true"
        for name, text in c.commands.items():
            yield f"complete -c {program} -n '{seen}' -a {name} -d '{fish_quote(text)}'"
        for o in c.options:
            where = "" if o.long in GLOBAL else f" -n '{seen}'"
            value = f" -x -a '{o.words}'" if o.words else " -r -F" if o.files else " -x" if o.value else ""
            short = f" -s {o.short[1:]}" if o.short else ""
            yield f"complete -c {program}{where}{short} -l {o.long[2:]}{value} -d '{fish_quote(o.text)}'"
        if c.starts_program:
            yield f"complete -c {program} -n '{seen}' -x -a '(__fish_complete_subcommand --fcs-skip=2)'"
        elif c.takes_files:
            yield f"complete -c {program} -n '{seen}' -F"


def fill(template, values):
    with open(os.path.join(HERE, template), encoding="utf-8") as f:
        return re.sub(r"@([A-Z]+)@", lambda m: values[m[1]], f.read())


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    binaries, folder = sys.argv[1:]
    all_of = {p: read_commands(os.path.join(binaries, p)) for p in PROGRAMS}
    for shell in ("bash", "zsh", "fish"):
        os.makedirs(os.path.join(folder, shell), exist_ok=True)
    for program, commands in all_of.items():
        with open(f"{folder}/bash/{program}", "w", encoding="utf-8") as f:
            f.write(fill("bash.in", bash(program, commands)))
        with open(f"{folder}/fish/{program}.fish", "w", encoding="utf-8") as f:
            f.write("# made by packaging/completion/completions.py\n" + "\n".join(fish_lines(program, commands)) + "\n")
        with open(f"{folder}/zsh/_{program}", "w", encoding="utf-8") as f:
            functions = "\n".join(zsh_function(program, c, commands) for c in reversed(commands))
            f.write(f"#compdef {program}\n# made by packaging/completion/completions.py\n{functions}\n_{program} \"$@\"\n")


if __name__ == "__main__":
    main()
