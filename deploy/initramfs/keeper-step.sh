# shellcheck shell=sh
# The initrd step of the root keeper, for POSIX shells; sourced by the hooks of initramfs-tools and dracut.
#
# Its one duty: no way leads from here to user space or to a shell with uncapped PCRs. The keeper caps by itself, also when
# it has no root; if it didn't say so in time, or at all, this script caps; if even that fails, the machine stops.

assay_keeper=/usr/lib/assay/assay-keeper
assay_config=/etc/assay/keeper.json
assay_run=/run/assay-keeper
assay_tick=0.1 assay_patience=600 # ticks: a minute
sleep "$assay_tick" 2>/dev/null || assay_tick=1 assay_patience=60

assay_keeper_cap() {
	# Some TPM drivers are modules that nothing loaded yet.
	for assay_module in tpm_crb tpm_tis; do
		modprobe -q "$assay_module" 2>/dev/null || true
	done
	if "$assay_keeper" cap; then
		return 0
	fi
	echo "assay-keeper: the PCRs could not be capped: stopping" >&2
	sync
	sleep 5
	# Not a shell: it would be one with uncapped PCRs.
	reboot -f 2>/dev/null || echo b >/proc/sysrq-trigger
	while :; do sleep 60; done
}

# test -w is no answer: to root the shell of an initramfs says yes on a read-only file system too.
assay_writable() {
	(: >"$1/.writable") 2>/dev/null && rm -f "$1/.writable"
}

# assay_keeper_step ROOT: start the keeper with the state below ROOT and wait for its cap.
assay_keeper_step() {
	assay_root=$1
	assay_state=$assay_root/var/lib/assay-keeper
	assay_remounted=

	if [ ! -x "$assay_keeper" ] || [ ! -r "$assay_config" ]; then
		echo "assay-keeper: not in this initramfs" >&2
		assay_keeper_cap
		return 0
	fi
	# Making a root is the one thing that must be written down at once.
	if [ -e "$assay_state/create.json" ] && ! assay_writable "$assay_state"; then
		mount -o remount,rw "$assay_root" && assay_remounted=yes
	fi
	rm -f "$assay_run/capped"
	for assay_module in tpm_crb tpm_tis; do
		modprobe -q "$assay_module" 2>/dev/null || true
	done

	"$assay_keeper" run --config "$assay_config" --state "$assay_state" --survive </dev/null >/dev/null 2>/dev/kmsg &
	assay_pid=$!

	assay_waited=0
	while [ ! -e "$assay_run/capped" ] && [ "$assay_waited" -lt "$assay_patience" ]; do
		kill -0 "$assay_pid" 2>/dev/null || break
		sleep "$assay_tick"
		assay_waited=$((assay_waited + 1))
	done
	if [ ! -e "$assay_run/capped" ]; then
		echo "assay-keeper: no cap by the keeper; capping here" >&2
		kill -9 "$assay_pid" 2>/dev/null || true
		assay_keeper_cap
	fi
	if [ -n "$assay_remounted" ]; then
		mount -o remount,ro "$assay_root" || true
	fi
	return 0
}
