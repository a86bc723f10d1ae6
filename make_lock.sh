#!/bin/sh
# Write requirements.lock: every package that is needed on any platform, with the hashes of all files of its version.
# Called by `make lock`; PY is the python of the environment, TORCH_INDEX where PyTorch's CPU builds are.
#
# The lock is a requirement file for `pip install --no-deps --require-hashes`. What only some need stands behind a mark,
# which is taken off where it is wanted: `#cuda ` for the libraries of torch's default build on Linux, `#llama ` for the
# optional rival, `#lock ` for the tool used here. Both builds of torch stand under one pin, each with its hashes.
set -eu

sed -n 's/^#lock //p' requirements.lock | "$PY" -m pip install -q --no-deps --require-hashes -r /dev/stdin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() {
  "$PY" -m uv pip compile -q --universal --python-version 3.11.5 --generate-hashes --no-annotate --no-header "$@"
}

compile pyproject.toml --all-extras -c requirements.txt >"$work/lock"
grep '^torch==' requirements.txt >"$work/torch"
if ! compile "$work/torch" --no-deps --index-url "$TORCH_INDEX" >"$work/cpu"; then
  echo "$TORCH_INDEX cannot be reached: the lock keeps the hashes of torch's CPU builds that it has." >&2
  sed -n '/^torch==/,/[^\\]$/p' requirements.lock >"$work/cpu"
fi
grep -o 'sha256:[0-9a-f]*' "$work/cpu" >"$work/hashes"

awk -v hashes="$work/hashes" '
  BEGIN { print "# Made by `make lock` from requirements.txt; what the marks mean says make_lock.sh." }
  /^[^ ]/ {
    mark = /^(nvidia|cuda|triton)/ ? "#cuda " : /^xllamacpp/ ? "#llama " : /^uv==/ ? "#lock " : ""
    torch = /^torch==/
  }
  torch && match($0, /sha256:[0-9a-f]+/) { seen[substr($0, RSTART, RLENGTH)] = 1 }
  torch && !/\\$/ {  # the last of its lines: those of the CPU builds follow
    line = $0
    while ((getline hash < hashes) > 0) if (!(hash in seen)) line = line " \\\n    --hash=" hash
    print line
    next
  }
  { print mark $0 }' "$work/lock" >"$work/new"
mv "$work/new" requirements.lock
compile pyproject.toml --extra quickstart -c requirements.txt >"$work/quickstart"
{ echo "# Made by \`make lock\`: the part of requirements.lock that \`make quickstart\` needs."; cat "$work/quickstart"; } >requirements-quickstart.lock

# Proof: every file that each platform would install is there, and has one of the hashes.
sed 's/^#cuda //' requirements.lock >"$work/all"
for platform in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu aarch64-apple-darwin; do
  for version in 3.11.5 3.12 3.13; do
    for lock in "$work/all" requirements-quickstart.lock; do
      MACOSX_DEPLOYMENT_TARGET=14.0 "$PY" -m uv pip install -q --dry-run --no-deps --require-hashes --only-binary :all: \
        --target "$work/target" --python-platform "$platform" --python-version "$version" -r "$lock"
    done
    echo "$platform, Python $version: complete"
  done
done
