#!/bin/sh
# Make .venv with the packages of requirements.lock, each held to its hash. Called by `make env`; PYTHON and TORCH_INDEX
# are optional. `make quickstart` names another folder, VENV, and a shorter list without torch, LOCK.
# The stamp is written last: a .venv without it was interrupted and is made anew.
set -eu

venv=${VENV:-.venv}
lock=${LOCK:-requirements.lock}
stamp=$venv/installed.txt
# what stands from [tool.ruff] on does not touch the packages
wanted=$(sed '/^\[tool\.ruff\]/,$d' pyproject.toml | cat "$lock" - | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
  exit 0
fi

python=
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
  # ensurepip is asked for because some systems ship it, and so venv, apart
  if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11, 5) <= sys.version_info[:3] < (3, 14))' \
    2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ] && [ -n "${PYTHON:-}" ]; then
  echo "error: PYTHON=$PYTHON is no Python from 3.11.5 to 3.13 with venv. Name another, or none: one is looked for." >&2
  exit 1
fi
if [ -z "$python" ]; then
  cat >&2 <<'END'
error: no Python from 3.11.5 to 3.13 with venv was found. Install one and call make again:
  Debian, Ubuntu, WSL2:  sudo apt install python3 python3-venv
  Fedora:                sudo dnf install python3.12
  macOS:                 brew install python@3.12
  conda:                 conda env create -f environment.yml && conda activate eestudy   (then make ... USE_CURRENT_ENV=1)
or name one: make env PYTHON=/path/to/python3.12
END
  exit 1
fi

echo "Making $venv with $("$python" --version). The downloads take some minutes, once."
rm -rf "$venv"
"$python" -m venv "$venv"
pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}

hashed="--no-deps --require-hashes"
cp "$lock" "$venv/lock.txt"
# On Linux a plain torch is a CUDA build of gigabytes, so the CPU index is tried first. The lock knows both builds.
if grep -q "^torch==" "$lock"; then
  sed -n '/^torch==/,/[^\\]$/p' "$lock" >"$venv/torch.txt"
  if [ -n "${TORCH_INDEX:-}" ] &&
    pip install -q --dry-run $hashed --index-url "$TORCH_INDEX" --timeout 5 --retries 0 -r "$venv/torch.txt" >/dev/null 2>&1; then
    pip install $hashed --index-url "$TORCH_INDEX" -r "$venv/torch.txt"
  else
    echo "TORCH_INDEX (${TORCH_INDEX:-empty}) is not used; pip's own configuration serves torch."
    pip install $hashed -r "$venv/torch.txt"
  fi
  if pip show torch | grep -q '^Version: .*+cpu$'; then
    cp "$lock" "$venv/lock.txt"
  else
    sed 's/^#cuda //' "$lock" >"$venv/lock.txt" # what the default build needs on Linux; its marks tell pip where
  fi
fi
pip install -q $hashed -r "$venv/lock.txt"
pip install -q --no-deps --no-build-isolation -e .
pip check
echo "$wanted" >"$stamp"
