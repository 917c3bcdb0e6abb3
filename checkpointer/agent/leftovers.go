package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages/keeper"
)

// clearLeftovers removes what an earlier checkpointer of this boot left in
// staging and of its restores.
func (a *Agent) clearLeftovers(ctx context.Context, kept []keeper.Description) error {
	ids := map[string]bool{}
	for _, k := range kept {
		ids[k.ID] = true
	}
	a.killUndrained(ctx, ids)
	for _, dir := range []string{stagingFolder, restoreFolder, draftFolder} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("clear %s: %w", dir, err)
		}
	}
	for _, dir := range []string{stagingFolder, restoreFolder, client.ContainersFolder} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	return nil
}

// thawLeftovers thaws containers that an earlier checkpointer of this boot
// froze and did not live to thaw, but for those that are to be killed. The fencer
// freezes pods, not containers, so nothing of its is undone.
func (a *Agent) thawLeftovers(ctx context.Context) error {
	entries, err := os.ReadDir(client.ContainersFolder)
	if err != nil {
		return fmt.Errorf("list the node's protected containers: %w", err)
	}
	var paths []string
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(client.ContainersFolder, entry.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		}
		var registered client.Registration
		if err == nil {
			err = json.Unmarshal(raw, &registered)
		}
		if err != nil {
			a.log.Warn("registration of a container is unreadable", "file", entry.Name(), "err", err)
			continue
		}
		if a.stops.committed(registered.PodUID) {
			continue
		}
		paths = append(paths, registered.CgroupsPath)
	}
	return a.engine.ThawAll(ctx, paths)
}

// killCommitted ends what an earlier checkpointer was about to end, before anything asks
// for it: the API need not answer for that. What fails here is tried again with the move.
func (a *Agent) killCommitted(ctx context.Context) {
	for _, note := range a.stops.all() {
		if !note.Committed {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, killTime)
		err := errors.Join(a.confirmed.withhold(note.PodUID), a.engine.KillAll(ctx, note.Cgroups))
		cancel()
		if err != nil {
			a.log.Error("end a pod that was stopped for its move", "migration", note.Migration, "err", err)
		}
	}
}
