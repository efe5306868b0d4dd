#!/bin/sh
# Checks the code without running it, and the built package of the tap. Arguments: the names of
# the checks to run (default: all).
#
#   sh run-checks.sh                 all checks
#   sh run-checks.sh format types    some of them
set -u
cd "$(dirname -- "$0")" || exit 1

# The name of each check, and its command.
checks='lint          ruff check .
format        ruff format --check .
types         sh -c "for p in tap_datasync target_config datasync_ingestion datasync_sandbox datasync_monitor datasync_bench; do mypy -p \$p || exit; done; mypy scripts/*.py plugins/*.py docs/*.py"
dependencies  sh -c "for p in tap-datasync target-config ingestion sandbox monitoring; do (cd \$p && deptry src) || exit; done"
meltano       sh -c "python scripts/meltano_schema.py | check-jsonschema --schemafile /dev/stdin meltano.yml"
compose       check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
workflows     check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
shell         sh -c "shellcheck $(git ls-files \"*.sh\" .ci/run plugins/bin/tap-datasync)"
spelling      codespell
advisories    pip-audit --progress-spinner off --disable-pip --require-hashes -r requirements/lock.txt
wheel         sh scripts/check-wheel.sh'
