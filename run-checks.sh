#!/bin/sh
# Looks at everything that can be looked at without running it, and at the built
# package of the tap. No arguments: all checks. Otherwise the names of some:
#
#   sh run-checks.sh                 all of them
#   sh run-checks.sh format types    some of them
#   sh run-checks.sh --list          their names
#
# Exit code 0 when all that ran are clean. What cannot run here (pip-audit without
# its database of advisories) is skipped, and says so.
set -u
cd "$(dirname -- "$0")" || exit 1

# Our own packages: directory and module.
packages="tap-datasync:tap_datasync target-config:target_config ingestion:datasync_ingestion
    sandbox:datasync_sandbox monitoring:datasync_monitor"

shell_scripts() {
    git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run 2>/dev/null ||
        find . -name '*.sh' -not -path './.*'
}

lint() { ruff check . ; }

format() { ruff format --check . ; }

types() {
    for package in $packages bench:datasync_bench; do
        mypy --package "${package#*:}" || return 1
    done
    mypy scripts/*.py plugins/*.py docs/*.py
}

dependencies() {
    for package in $packages; do
        (cd "${package%:*}" && deptry src) || return 1
    done
}

meltano() {
    mkdir -p .run
    python scripts/meltano_schema.py >.run/meltano.schema.json
    check-jsonschema --schemafile .run/meltano.schema.json meltano.yml
}

compose() {
    check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
}

workflows() { check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml; }

shell() {
    # shellcheck disable=SC2046 # no name holds a space
    shellcheck $(shell_scripts)
}

spelling() { codespell; }

advisories() {
    for lock in run tap target dashboard; do
        # A hash for every line: nothing is resolved, nothing installed.
        said=$(pip-audit --progress-spinner off --disable-pip --require-hashes \
            --requirement "requirements/$lock.txt" 2>&1) && continue
        case $said in
        *ConnectionError* | *"Failed to connect"* | *Max\ retries* | *ServiceError* | *HTTPError*)
            echo "the advisories of PyPI cannot be reached"
            return 77
            ;;
        esac
        printf '%s\n' "$said"
        return 1
    done
}

wheel() { sh scripts/check-wheel.sh; }

all="lint format types dependencies meltano compose workflows shell spelling advisories wheel"

case ${1-} in
-h | --help)
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
--list)
    printf '%s\n' "$all"
    exit 0
    ;;
esac

# shellcheck source=scripts/python.sh
. scripts/python.sh
"$python" scripts/setup.py --checks || exit 1
PATH=$PWD/.venv-checks/bin:$PATH
export PATH

failed=
# shellcheck disable=SC2086 # the names are words
[ $# -gt 0 ] || set -- $all
for check; do
    case " $all " in
    *" $check "*) ;;
    *)
        echo "There is no check '$check'; there are: $all" >&2
        exit 2
        ;;
    esac
    printf '%-14s' "$check"
    if output=$("$check" 2>&1); then
        echo "ok"
    elif [ $? -eq 77 ]; then
        echo "skipped: $output"
    else
        echo "FAILED"
        printf '%s\n' "$output" | sed 's/^/    /'
        failed="$failed $check"
    fi
done
if [ -n "$failed" ]; then
    echo "Failed:$failed" >&2
    exit 1
fi
