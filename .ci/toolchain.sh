# Sourced by .ci/run and .ci/matrix: what tox-uv needs to find interpreters and wheels.
# pyenv's shims answer for versions that are not active; uv wants the interpreters themselves.
for folder in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin; do PATH="$PATH:$folder"; done
# uv does not read pip's configuration: hand it pip's folder of local wheels.
UV_FIND_LINKS="${UV_FIND_LINKS:-$(.venv/bin/pip config get global.find-links 2>/dev/null || true)}"
export UV_FIND_LINKS
unset PYTHONDONTWRITEBYTECODE  # it triples import times
export OMP_NUM_THREADS=1
