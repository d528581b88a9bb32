#!/bin/bash
# The dracut module of the root keeper: /usr/lib/dracut/modules.d/90assay-keeper/module-setup.sh

check() {
	[[ -f /etc/assay/keeper.json ]] || return 1
	require_binaries /usr/lib/assay/assay-keeper || return 1
	return 0
}

depends() {
	echo base
	return 0
}

installkernel() {
	hostonly='' instmods tpm tpm_tis tpm_tis_core tpm_crb =drivers/char/tpm
}

install() {
	inst_multiple modprobe mount sleep kill rm sync reboot
	inst_simple /usr/lib/assay/assay-keeper
	inst_simple /etc/assay/keeper.json
	inst_simple /usr/share/assay/initramfs/keeper-step.sh /usr/lib/assay/keeper-step.sh
	# After everything else of this phase, and before switch-root; and before any shell.
	# shellcheck disable=SC2154 # moddir is dracut's
	inst_hook pre-pivot 99 "$moddir/pre-pivot.sh"
	inst_hook emergency 00 "$moddir/emergency.sh"
	inst_hook shutdown-emergency 00 "$moddir/emergency.sh"
}
