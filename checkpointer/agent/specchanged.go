package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// specChanged says why a container cannot take the place of the checkpointed
// one, or nil. CRIU maps mounts by their destination: they must be the same.
func specChanged(dir string, req client.CreateRequest, g store.Generation) *refusal {
	if !slices.Contains(g.Containers, req.Name) {
		return &refusal{v1alpha1.ReasonSpecChanged, fmt.Sprintf("generation %d has no container %q; it has %v", g.Number, req.Name, g.Containers)}
	}
	raw, err := os.ReadFile(filepath.Join(dir, req.Name, criu.ContainerFile))
	if err != nil {
		return &refusal{v1alpha1.ReasonCheckpointDamaged, fmt.Sprintf("read the description of container %s: %v", req.Name, err)}
	}
	var was criu.ContainerInfo
	if err := json.Unmarshal(raw, &was); err != nil {
		return &refusal{v1alpha1.ReasonCheckpointDamaged, fmt.Sprintf("read the description of container %s: %v", req.Name, err)}
	}
	raw, err = os.ReadFile(filepath.Join("/proc/1/root", req.Bundle, "config.json"))
	if err != nil {
		return &refusal{v1alpha1.ReasonRestoreFailed, fmt.Sprintf("read the container's bundle: %v", err)}
	}
	var is struct {
		Mounts []struct {
			Destination string `json:"destination"`
		} `json:"mounts"`
	}
	if err := json.Unmarshal(raw, &is); err != nil {
		return &refusal{v1alpha1.ReasonRestoreFailed, fmt.Sprintf("read the container's bundle: %v", err)}
	}
	have := map[string]bool{}
	for _, m := range is.Mounts {
		have[m.Destination] = true
	}
	for _, destination := range was.Mounts {
		if !have[destination] {
			return &refusal{v1alpha1.ReasonSpecChanged, fmt.Sprintf("container %s had a mount at %s that its successor lacks", req.Name, destination)}
		}
	}
	return nil
}
