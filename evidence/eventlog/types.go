package eventlog

// Event types (PFP section 10.4.1). Nothing covers a type (S32).
const (
	evNoAction      = 0x00000003
	evSeparator     = 0x00000004
	evAction        = 0x00000005
	evEventTag      = 0x00000006
	evCRTMVersion   = 0x00000008
	evIPL           = 0x0000000d
	evVariable      = 0x80000001 // EV_EFI_VARIABLE_DRIVER_CONFIG
	evVariableBoot  = 0x80000002
	evApplication   = 0x80000003
	evBootDriver    = 0x80000004
	evRuntimeDriver = 0x80000005
	evEFIAction     = 0x80000007
	evVariableBoot2 = 0x8000000c
	evAuthority     = 0x800000e0
)

// typeName returns the TCG's name of an event type, "" of others.
func typeName(t uint32) string {
	switch {
	case t < uint32(len(baseTypes)):
		return baseTypes[t]
	case t >= 0x80000000 && t-0x80000000 < uint32(len(efiTypes)):
		return efiTypes[t-0x80000000]
	case t == evAuthority:
		return "EV_EFI_VARIABLE_AUTHORITY"
	case t >= 0x800000e1 && t <= 0x800000e4:
		return [...]string{"EV_EFI_SPDM_FIRMWARE_BLOB", "EV_EFI_SPDM_FIRMWARE_CONFIG", "EV_EFI_SPDM_DEVICE_POLICY", "EV_EFI_SPDM_DEVICE_AUTHORITY"}[t-0x800000e1]
	}
	return ""
}

var baseTypes = [...]string{
	"EV_PREBOOT_CERT", "EV_POST_CODE", "EV_UNUSED", "EV_NO_ACTION", "EV_SEPARATOR", "EV_ACTION", "EV_EVENT_TAG",
	"EV_S_CRTM_CONTENTS", "EV_S_CRTM_VERSION", "EV_CPU_MICROCODE", "EV_PLATFORM_CONFIG_FLAGS", "EV_TABLE_OF_DEVICES",
	"EV_COMPACT_HASH", "EV_IPL", "EV_IPL_PARTITION_DATA", "EV_NONHOST_CODE", "EV_NONHOST_CONFIG", "EV_NONHOST_INFO",
	"EV_OMIT_BOOT_DEVICE_EVENTS", "EV_POST_CODE2",
}

var efiTypes = [...]string{
	"EV_EFI_EVENT_BASE", "EV_EFI_VARIABLE_DRIVER_CONFIG", "EV_EFI_VARIABLE_BOOT", "EV_EFI_BOOT_SERVICES_APPLICATION",
	"EV_EFI_BOOT_SERVICES_DRIVER", "EV_EFI_RUNTIME_SERVICES_DRIVER", "EV_EFI_GPT_EVENT", "EV_EFI_ACTION",
	"EV_EFI_PLATFORM_FIRMWARE_BLOB", "EV_EFI_HANDOFF_TABLES", "EV_EFI_PLATFORM_FIRMWARE_BLOB2", "EV_EFI_HANDOFF_TABLES2",
	"EV_EFI_VARIABLE_BOOT2", "EV_EFI_GPT_EVENT2", "", "", "EV_EFI_HCRTM_EVENT",
}
