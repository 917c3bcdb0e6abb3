package agent

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// draftLeast is from how many bytes of files on a draft is worth it: below that they
	// are brought into place in a moment.
	draftLeast = 32 << 20
	// draftShare is the share of the node's free memory that a draft may take.
	draftShare = 0.25
	// draftEvery is how often a newer generation is looked for. It comes through the
	// store, which nobody tells of it.
	draftEvery = 200 * time.Millisecond
)

// drafts are the files of generations of pods that are about to move live, brought into
// place on nodes that hold copies of these generations, so that may become the target.
// The last generation then lacks only what has changed since.
type drafts struct {
	mu sync.Mutex
	of map[types.UID]*draft // by Migration
}

// draft is that of one Migration.
type draft struct {
	mu    sync.Mutex // held while it is being made
	made  *store.Draft
	ended bool
}

// drafted says whether a node is to have a draft of a Migration's pod: it may become the
// target, and the last generation is yet to come, or to be restored.
func drafted(m *v1alpha1.Migration, node string) bool {
	switch {
	case !m.Open(), m.Clones(), m.Withdrawing(), m.Spec.Strategy != v1alpha1.StrategyLive, m.Spec.SourceNode == node:
		return false
	case !m.Reached(v1alpha1.PhaseAccepted), m.RestoreCommitted():
		return false
	case m.Status.Claim != nil:
		return m.Status.Claim.NodeName == node
	}
	return m.Spec.TargetNode == "" || m.Spec.TargetNode == node
}

// runDrafts keeps the drafts of this node until ctx ends.
func (a *Agent) runDrafts(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		changed := a.changes.wait()
		a.beginDrafts(ctx, &running)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (a *Agent) beginDrafts(ctx context.Context, running *sync.WaitGroup) {
	var list v1alpha1.MigrationList
	if err := a.cache.List(ctx, &list); err != nil {
		a.log.Error("list the migrations", "err", err)
		return
	}
	wanted := map[types.UID]bool{}
	for i := range list.Items {
		m := &list.Items[i]
		if !drafted(m, a.cfg.NodeName) {
			continue
		}
		wanted[m.UID] = true
		if d, fresh := a.drafts.begin(m.UID); fresh {
			running.Go(func() {
				a.keepDraft(ctx, m, d)
				a.drafts.end(m.UID, a.log)
			})
		}
	}
	a.drafts.keep(wanted)
}

func (s *drafts) begin(migration types.UID) (d *draft, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d = s.of[migration]; d != nil {
		return d, false
	}
	if s.of == nil {
		s.of = map[types.UID]*draft{}
	}
	d = &draft{}
	s.of[migration] = d
	return d, true
}

// end removes what was made and not taken.
func (s *drafts) end(migration types.UID, log *slog.Logger) {
	if made := s.take(migration); made != nil {
		if err := made.Remove(); err != nil {
			log.Warn("remove a draft that nobody needs", "err", err)
		}
	}
}

// keep forgets the drafts of other Migrations than those, once they have ended: until then
// no second one is made.
func (s *drafts) keep(migrations map[types.UID]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.of, func(migration types.UID, d *draft) bool {
		if migrations[migration] || !d.mu.TryLock() {
			return false // it is being made
		}
		defer d.mu.Unlock()
		return d.ended
	})
}

// take ends a draft, and returns what was made of it, nil for nothing. It waits for what
// is being made: to begin anew would take longer.
func (s *drafts) take(migration types.UID) *store.Draft {
	s.mu.Lock()
	d := s.of[migration]
	s.mu.Unlock()
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	made := d.made
	d.made, d.ended = nil, true
	return made
}

// keepDraft makes a draft of the newest generation that the node holds, and brings it up to
// newer ones, until it is taken or not wanted any more.
func (a *Agent) keepDraft(ctx context.Context, m *v1alpha1.Migration, d *draft) {
	ticker := time.NewTicker(draftEvery)
	defer ticker.Stop()
	for {
		current := a.cachedMigration(ctx, m)
		if current == nil || current.UID != m.UID || !drafted(current, a.cfg.NodeName) || a.refreshDraft(ctx, m, d) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// refreshDraft does one step, and says whether it was the last one.
func (a *Agent) refreshDraft(ctx context.Context, m *v1alpha1.Migration, d *draft) (over bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return true
	}
	key := store.Key{Namespace: m.Namespace, PodUID: string(m.Memory())}
	held, err := a.store.List(key)
	if err != nil || len(held) == 0 || d.made != nil && d.made.Number() >= held[0].Number {
		return false // nothing yet, or nothing new
	}
	reader, err := a.store.OpenReader(ctx, key, held[0].Number, nil)
	if err != nil {
		return false // it is on its way
	}
	defer reader.Close()
	bytes := reader.FileBytes()
	if d.made == nil && (bytes < draftLeast || float64(bytes) > draftShare*float64(readAvailable(a.host.ProcRoot))) {
		return false
	}
	began := time.Now()
	if d.made == nil {
		dir := filepath.Join(draftFolder, string(m.UID))
		if err = os.MkdirAll(draftFolder, 0o700); err == nil {
			d.made, err = reader.Draft(ctx, dir)
		}
	} else if err = reader.Refresh(ctx, d.made); err != nil {
		d.made = nil
	}
	a.log.Debug("files of a pod that is about to move were brought here", "pod", key.String(), "generation", held[0].Number, "bytes", bytes, "took", time.Since(began), "err", err)
	return err != nil
}

// materialize brings a generation's files into dir, by a draft where there is one.
func (a *Agent) materialize(ctx context.Context, reader *store.Reader, made *store.Draft, dir string) error {
	if made == nil {
		return reader.Materialize(ctx, dir)
	}
	from := made.Number()
	err := reader.Refresh(ctx, made)
	if err == nil {
		_ = os.Remove(dir) // an empty one
		err = made.Take(dir)
	}
	if err == nil {
		a.log.Info("files were brought here before", "pod", reader.Key().String(), "generation", reader.Generation().Number, "before", from)
		return nil
	}
	a.log.Warn("files that were brought here before are of no use", "err", err)
	_ = made.Remove()
	return reader.Materialize(ctx, dir)
}
