# Answers of a given form: 200 random schemas, grammars, tools that must be called. $1: the build
# folder. Validation is that of the Python package jsonschema, looked for in $DS_PYTHON, then in
# python3; absent, the test is skipped.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
python="${DS_PYTHON:-python3}"
"$python" -c "import jsonschema" 2>/dev/null || { echo "SKIPPED: $python has no package jsonschema"; exit 77; }
dir="$(mktemp -d)"
pid=""
end() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$dir"; }
trap end EXIT

. "$here/../support/tiny_model.sh"
tiny_model "$1/bin" "$dir/model" || { cat "$dir/model.work/log"; exit 1; }
data="$here/../data/grammars"
for form in "--json-schema $data/person.json" "--grammar $data/list.gbnf"; do
    # shellcheck disable=SC2086 # two words are meant
    "$1/bin/deepseek-generate" --model "$dir/model" --prompt "" -n 2000 --seed 5 $form >"$dir/text"
    case $form in
    *json) "$python" -c 'import json, jsonschema, sys
jsonschema.validate(json.load(open(sys.argv[1])), json.load(open(sys.argv[2])))' "$dir/text" "$data/person.json" ;;
    *) head -n 1 "$dir/text" | grep -qE '^(- |\* )' || { cat "$dir/text"; exit 1; } ;;
    esac
done

"$1/bin/deepseek-serve" --model "$dir/model" --port 0 --threads 1 >"$dir/out" 2>"$dir/err" &
pid=$!
for _ in $(seq 600); do
    grep -q "^serving" "$dir/out" && break
    sleep 0.1
done
url="$(grep -o 'http://[^ ]*' "$dir/out")" || { cat "$dir/err" >&2; exit 1; }
"$python" "$here/json_forms.py" "$url" model
kill -TERM "$pid"
wait "$pid"
pid=""
