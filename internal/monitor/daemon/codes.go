package daemon

import "github.com/assay-attest/assay/rats"

// What goes wrong between the daemon and its clients.
var (
	CodeGone = code("monitor.daemon.gone", "the monitor is no more, or was never there",
		"see `systemctl status assay-monitor`; connect and load again: what was sealed opens again")
	CodeFrame = code("monitor.daemon.frame", "the other side doesn't keep to the protocol",
		"monitor and client must be of the same release")
	CodeLimit = code("monitor.daemon.limit", "the client has as many enclaves as it may",
		"destroy one, or raise max_enclaves in the monitor's configuration")
	CodeInternal = code("monitor.daemon.failed", "the monitor could not do it", "see the monitor's log")
	CodeConfig   = code("monitor.config.malformed", "the monitor's configuration is not usable",
		"docs/enclave.md lists its fields; unknown ones are refused")
	CodePeer = code("monitor.daemon.peer", "this user may not use the monitor",
		"name the user's id in `uids` of the monitor's configuration")
)

func code(c rats.Code, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Slot: rats.RuntimeOpaque, Title: title, Hint: hint}
}

// Codes are all reasons that this package gives.
var Codes = []rats.CodeInfo{CodeGone, CodeFrame, CodeLimit, CodeInternal, CodeConfig, CodePeer}
