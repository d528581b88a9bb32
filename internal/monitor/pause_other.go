//go:build !amd64 && !arm64

package monitor

func pause() {}
