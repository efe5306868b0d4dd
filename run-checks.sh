#!/bin/sh
# Runs the static checks, and tests the tap's built package.
#
#   sh run-checks.sh                 all checks
#   sh run-checks.sh format types    some of them
#   sh run-checks.sh --list          their names
set -u
cd "$(dirname -- "$0")" || exit 1

all="lint format types dependencies meltano compose workflows shell spelling advisories wheel"
modules="tap_datasync target_config datasync_ingestion datasync_sandbox datasync_monitor datasync_bench"
packages="tap-datasync target-config ingestion sandbox monitoring"

check() {
    case $1 in
    lint) ruff check . ;;
    format) ruff format --check . ;;
    types)
        for module in $modules; do mypy --package "$module" || return; done
        mypy scripts/*.py plugins/*.py docs/*.py
        ;;
    dependencies) for package in $packages; do (cd "$package" && deptry src) || return; done ;;
    meltano)
        python scripts/meltano_schema.py >.venvs/meltano.schema.json
        check-jsonschema --schemafile .venvs/meltano.schema.json meltano.yml
        ;;
    compose) check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml ;;
    workflows) check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml ;;
    shell) git ls-files -z '*.sh' .ci/run plugins/bin/tap-datasync | xargs -0 shellcheck ;;
    spelling) codespell ;;
    # Every line has a hash: nothing is resolved, nothing installed.
    advisories) pip-audit --progress-spinner=off --disable-pip --require-hashes -r requirements/lock.txt ;;
    wheel) sh scripts/check-wheel.sh ;;
    *)
        echo "There is no such check; the checks are: $all"
        return 1
        ;;
    esac
}

if [ "${1-}" = --list ]; then
    echo "$all"
    exit
fi
sh scripts/install.sh --dev || exit
PATH=$PWD/.venv-dev/bin:$PATH
# shellcheck disable=SC2086 # the names are words
[ $# -gt 0 ] || set -- $all
failed=
for name; do
    printf '%-14s' "$name"
    if output=$(check "$name" 2>&1); then
        echo "ok"
    else
        case $name:$output in
        advisories:*Connect* | advisories:*Max\ retries*) echo "skipped: PyPI cannot be reached" ;;
        *)
            printf 'FAILED\n%s\n' "$output" | sed '2,$s/^/    /'
            failed="$failed $name"
            ;;
        esac
    fi
done
[ -z "$failed" ] || {
    echo "Failed:$failed" >&2
    exit 1
}
