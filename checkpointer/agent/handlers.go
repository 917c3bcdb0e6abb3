package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// handlersTimeout bounds the question which handlers the container runtime knows.
const handlersTimeout = 5 * time.Second

// handlers are the runtime handlers that the node's container runtime knows,
// sorted; nil where it does not tell. containerd tells from 2.0 on as the runtime
// interface has it, and before that in its configuration, which it shows on demand.
func (c *containers) handlers(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, handlersTimeout)
	defer cancel()
	status, err := c.runtime.Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("ask the container runtime for its handlers: %w", err)
	}
	known := map[string]bool{}
	for _, handler := range status.RuntimeHandlers {
		known[handler.Name] = true
	}
	if len(known) == 0 {
		var config struct {
			Containerd struct {
				Runtimes map[string]json.RawMessage `json:"runtimes"`
			} `json:"containerd"`
		}
		if raw := status.Info["config"]; raw != "" {
			if err := json.Unmarshal([]byte(raw), &config); err != nil {
				return nil, fmt.Errorf("read the container runtime's configuration: %w", err)
			}
		}
		for name := range config.Containerd.Runtimes {
			known[name] = true
		}
	}
	delete(known, "") // the default, under no name of its own
	return slices.Sorted(maps.Keys(known)), nil
}
