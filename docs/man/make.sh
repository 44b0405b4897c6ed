#!/bin/sh
# A manual page out of what a program says to --help, and a text beside it:
#     docs/man/make.sh PROGRAM TEXT VERSION >PAGE
# TEXT begins with a line that says what the program is for; the rest are sections in man's macros.
# So no page can lag behind its program.
set -eu
program="$1" text="$2" version="$3"
name="$(basename "$program")"

"$program" --help | awk -v name="$name" -v version="$version" -v purpose="$(head -n 1 "$text")" '
function plain(s) {
    gsub(/\\/, "\\e", s)
    if (s ~ /^[.\x27]/) s = "\\&" s
    return s
}
function literal(s) { s = plain(s); gsub(/-/, "\\-", s); return s }
function close_all() { if (example) print ".EE"; example = 0; item = 0 }
BEGIN {
    printf ".\\\" made from --help by docs/man/make.sh\n.TH %s 1 \"\" \"deepseek %s\" \"User Commands\"\n", toupper(name), version
    printf ".SH NAME\n%s \\- %s\n.SH SYNOPSIS\n", literal(name), purpose
}
NR == 1 && /^usage: / { sub(/^usage: /, ""); print ".B " literal($0); print ".SH DESCRIPTION"; next }
NR == 1 { print ".B " literal(name); print ".I command\n.RI [ options ]\n.SH DESCRIPTION" }
{ indent = match($0, /[^ ]/) - 1 }
/^ *$/ { close_all(); if (seen) new_paragraph = 1; next }
# an option: its names, two spaces at least, what it does
indent >= 1 && indent <= 6 && /^ *-/ {
    close_all()
    if (!options) { print ".SH OPTIONS"; options = 1 }
    new_paragraph = 0
    line = $0
    sub(/^ +/, "", line)
    at = match(line, /  +/)
    print ".TP\n.B " literal(at ? substr(line, 1, at - 1) : line)
    if (at) print plain(substr(line, at + RLENGTH))
    item = seen = 1
    next
}
item && indent >= 8 { sub(/^ +/, ""); print plain($0); next }
# what is indented otherwise is an example
/^ +[^ ]/ {
    item = 0
    if (!example) print ".PP\n.EX"
    new_paragraph = 0
    example = seen = 1
    print literal($0)
    next
}
{
    if (new_paragraph || item) print ".PP"
    close_all()
    new_paragraph = 0
    seen = 1
    print plain($0)
}
END { close_all() }'
tail -n +2 "$text"
