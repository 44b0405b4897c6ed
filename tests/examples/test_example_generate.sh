# The examples generate and generate_many on a trained model: the text that a float64 implementation
# in numpy goes on with, and answers that are together what they are alone. $1: the build folder.
set -eu
examples="$1/examples"
model="$(dirname "$0")/../../../shared/assets/tinystories656k"
[ -d "$model" ] || { echo "SKIPPED: no $model"; exit 77; }

fail() { echo "FAILED: $*" >&2; exit 1; }

told="$("$examples/example_generate" "$model" "Once upon a time")"
case "$told" in
"Once upon a time, a little girl named Lily lived in a small house with her mom, dad, and her dog, Spot,"*) ;;
*) fail "generate wrote '$told'" ;;
esac
alone="$("$examples/example_generate_many" "$model" "The cat")"
[ "${#alone}" -gt 60 ] || fail "generate_many wrote '$alone'"
together="$("$examples/example_generate_many" "$model" "Once upon a time" "The cat")"
case "$together" in
"Once upon a time"*"

$alone") ;;
*) fail "generate_many wrote '$together', not '$alone' at its end" ;;
esac
for example in generate generate_many; do
    ! "$examples/example_$example" 2>/dev/null || fail "$example wants no arguments"
    ! "$examples/example_$example" /nowhere x 2>/dev/null || fail "$example takes a model that is not there"
done
