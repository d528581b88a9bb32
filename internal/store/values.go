package store

import (
	"math"
	"time"
)

// Nanos is a time as databases keep it, in Unix nanoseconds. Times beyond their range (years 1678 to 2262) become its
// ends, of which the lower one is the zero time.
func Nanos(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// TimeOf is the time of a number of Nanos.
func TimeOf(n int64) time.Time {
	if n == math.MinInt64 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// ValidNamespace says whether a name is 1 to 63 of a-z, 0-9 and '-', as in a DNS label.
func ValidNamespace(s string) bool {
	if len(s) < 1 || len(s) > 63 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
