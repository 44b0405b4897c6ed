# The example embed on a small encoder: the cosines of transformers' vectors
# (tests/data/embeddings/encoder.expected.json). $1: the build folder.
set -eu
embed="$1/examples/example_embed"
model="$(dirname "$0")/../data/embeddings/encoder"

found="$("$embed" "$model" "A cat sleeps." "A cat sleeps." "A kitten is napping on the old sofa." \
    "Stock markets fell sharply on Monday." "light")"
[ "$found" = " 1.000  A cat sleeps.
 0.924  A kitten is napping on the old sofa.
 0.934  Stock markets fell sharply on Monday.
 0.774  light" ] || { echo "FAILED: embed wrote '$found'" >&2; exit 1; }
! "$embed" 2>/dev/null || { echo "FAILED: embed wants no arguments" >&2; exit 1; }
