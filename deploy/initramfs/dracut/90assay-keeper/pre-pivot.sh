#!/bin/sh
# The last step before switch-root.

# shellcheck source=/dev/null
. /usr/lib/assay/keeper-step.sh

assay_keeper_step "${NEWROOT:-/sysroot}"
