# The example chat: an answer to each line, the next after all that was said. $1: the build folder.
set -eu
chat="$1/examples/example_chat"
model="$(dirname "$0")/../../../shared/assets/tinystories656k"
[ -d "$model" ] || { echo "SKIPPED: no $model"; exit 77; }

fail() { echo "FAILED: $*" >&2; exit 1; }
turns() { printf '%s\n' "$@" | "$chat" "$model"; }

one="$(turns "Tell me a story" "")"
two="$(turns "Tell me a story" "And a second one" "")"
other="$(turns "Who is Lily?" "And a second one" "")"
[ "$(echo "$one" | grep -c '^> ')" = 2 ] || fail "one message, and not two prompts: $one"
[ "$(echo "$two" | grep -c '^> ')" = 3 ] || fail "two messages, and not three prompts: $two"
[ "${#one}" -gt 60 ] || fail "no answer: $one"
case "$two" in
"${one%> }"*) ;;
*) fail "the first answer depends on what comes later: '$one', '$two'" ;;
esac
[ "$other" != "$two" ] || fail "what was said first makes no difference"
! "$chat" 2>/dev/null || fail "chat wants no arguments"
