package v1alpha1

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of a hook's timeout, and what it is where the annotation names none.
const (
	DefaultHookTimeout = 5 * time.Second
	MaxHookTimeout     = time.Minute
)

// hookForms says how a hook is written.
var hookForms = fmt.Sprintf(`[container=NAME] [timeout=DURATION] and then "exec COMMAND ARGUMENT...", "exec [\"COMMAND\", \"ARGUMENT\"]" or "http PORT/PATH", with a timeout of at most %s`, MaxHookTimeout)

// Hook is a call into a pod's container: a command there, or an HTTP request to it.
type Hook struct {
	// Container is where the hook is called; empty is the pod's first container.
	Container string
	// Timeout is how long it may take.
	Timeout time.Duration
	// Command is what is executed, with its arguments; nil for an HTTP request.
	Command []string
	// Port and Path, which begins with a slash, are those of the HTTP request.
	Port int
	Path string
}

// ParseHook reads a hook as an annotation has it, such as "timeout=10s exec
// redis-cli save" or "http 8080/quiesce". It returns false when the value is none.
func ParseHook(value string) (*Hook, bool) {
	hook := &Hook{Timeout: DefaultHookTimeout}
	rest := strings.TrimSpace(value)
	for {
		word, after, _ := strings.Cut(rest, " ")
		after = strings.TrimSpace(after)
		if key, option, ok := strings.Cut(word, "="); ok {
			switch key {
			case "container":
				hook.Container = option
			case "timeout":
				d, err := time.ParseDuration(option)
				if err != nil || d <= 0 || d > MaxHookTimeout {
					return nil, false
				}
				hook.Timeout = d
			default:
				return nil, false
			}
			if option == "" {
				return nil, false
			}
			rest = after
			continue
		}
		switch word {
		case "exec":
			ok := hook.exec(after)
			return hook, ok
		case "http":
			ok := hook.http(after)
			return hook, ok
		}
		return nil, false
	}
}

func (h *Hook) exec(command string) bool {
	if strings.HasPrefix(command, "[") {
		return json.Unmarshal([]byte(command), &h.Command) == nil && len(h.Command) > 0 && h.Command[0] != ""
	}
	h.Command = strings.Fields(command)
	return len(h.Command) > 0
}

func (h *Hook) http(target string) bool {
	port, path, _ := strings.Cut(target, "/")
	n, err := strconv.Atoi(port)
	h.Port, h.Path = n, "/"+path
	return err == nil && n > 0 && n < 1<<16 && !strings.ContainsAny(path, " \t")
}
