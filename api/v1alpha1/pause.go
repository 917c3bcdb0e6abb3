package v1alpha1

import (
	"fmt"
	"strings"
)

const (
	// ConfigName is the name of the ConfigMap in SystemNamespace by which operators
	// steer Lifeboat while it runs.
	ConfigName = "lifeboat"
	// ConfigRecoveries is its key that pauses recoveries, see ParseRecoveries.
	ConfigRecoveries = "recoveries"

	paused        = "paused"
	unknownReason = "no reason was given"
)

// ParseRecoveries reads the value of ConfigRecoveries: "paused", or "paused: " and a
// reason, pauses recoveries, and the reason is returned; it is empty when nothing is
// paused. Any other value than the empty one is an error, and pauses nothing.
func ParseRecoveries(value string) (reason string, err error) {
	value = strings.TrimSpace(value)
	word, reason, _ := strings.Cut(value, ":")
	switch {
	case value == "":
		return "", nil
	case strings.TrimSpace(word) != paused:
		return "", fmt.Errorf("key %s: %q is not allowed; use %q, or %q and a reason, or remove the key", ConfigRecoveries, value, paused, paused+":")
	}
	if reason = strings.TrimSpace(reason); reason == "" {
		reason = unknownReason
	}
	return reason, nil
}

// PausedRecoveries is the value of ConfigRecoveries that pauses recoveries for a
// reason, which may be empty.
func PausedRecoveries(reason string) string {
	if reason = strings.TrimSpace(reason); reason == "" {
		return paused
	}
	return paused + ": " + reason
}
