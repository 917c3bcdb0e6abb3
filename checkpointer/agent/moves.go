package agent

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// lookAtMovesEvery is how often planned moves are looked at when nothing has changed.
const lookAtMovesEvery = time.Second

// move is a planned move that this node has a part in.
type move struct {
	// busy is whether one of its steps is under way.
	busy bool
	// told and imported are set once the node's part, as the source and as the target, is
	// over and has been told: what the cache says of the Migration may be older.
	told, imported bool
}

// over says whether a part was told already.
func (mv *move) over(next part) bool {
	if next == partImport {
		return mv.imported
	}
	return mv.told
}

// end notes that a step has ended, and whether the part is over and told.
func (mv *move) end(next part, told bool) {
	mv.busy = false
	if next == partImport {
		mv.imported = mv.imported || told
	} else {
		mv.told = mv.told || told
	}
}

// part is what a node has to do next for a planned move.
type part int

const (
	partNone part = iota
	// As the source.
	partPrepare // take generations while the pod runs
	partStop    // stop the pod for good
	partGiveUp  // an earlier checkpointer ended before the pod was killed: tell that it runs
	partKill    // an earlier one ended in the kill: end what is left, and tell
	partResume  // the application's old pod stays: let it go on
	// As the target.
	partImport // bring the application's state over
)

// partOf says what a node has to do next for a Migration. Note is what it has noted
// down of the pod that moves, nil where it has not.
func partOf(m *v1alpha1.Migration, node string, note *stopNote) part {
	source, claim := m.Status.Source, m.Status.Claim
	switch {
	case m.Spec.SourceNode == node && isQuiet(m):
		return partResume
	case !m.Planned() || !m.Open() || m.Clones():
		return partNone
	case m.Staged() && source != nil && source.StoppedAt != nil:
		if m.Reached(v1alpha1.PhaseDeleted) && claim != nil && claim.NodeName == node && m.AwaitsImport(claim.PodUID) && m.Status.Reason == "" {
			return partImport
		}
		return partNone
	case m.Spec.Strategy == v1alpha1.StrategyApplication && !m.Staged():
		imported := m.Status.Restore != nil && len(m.Status.Restore.Hooks) > 0
		if m.Reached(v1alpha1.PhaseReady) && claim != nil && claim.NodeName == node && !imported &&
			!m.Reached(v1alpha1.PhaseStopping) && !m.Reached(v1alpha1.PhaseDeleted) && m.Status.Reason == "" {
			return partImport
		}
		return partNone
	case m.Spec.SourceNode != node || m.Spec.Strategy == v1alpha1.StrategyReplace:
		return partNone
	case source != nil && (source.StoppedAt != nil || source.Error != ""):
		return partNone
	case note != nil && note.Committed:
		return partKill
	case note != nil:
		return partGiveUp
	case m.Reached(v1alpha1.PhaseFenced) || m.Status.Reason != "":
		return partNone // the fencer has killed it, or does; or the move is being given up
	case m.Reached(v1alpha1.PhaseStopping):
		return partStop
	case m.Spec.Strategy == v1alpha1.StrategyLive && m.Reached(v1alpha1.PhaseAccepted):
		return partPrepare
	}
	return partNone
}

// runMoves does the node's part in planned moves until ctx ends, and then lets those
// that are under way come to a point at which the next checkpointer can go on.
func (a *Agent) runMoves(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		changed := a.changes.wait()
		a.lookAtMoves(ctx, &running)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(lookAtMovesEvery):
		}
	}
}

// lookAtMoves begins what is to be done next for each planned move, unless something
// is being done for it.
func (a *Agent) lookAtMoves(ctx context.Context, running *sync.WaitGroup) {
	var list v1alpha1.MigrationList
	if err := a.cache.List(ctx, &list); err != nil {
		a.log.Error("list the migrations", "err", err)
		return
	}
	present := map[types.UID]bool{}
	for i := range list.Items {
		m := &list.Items[i]
		present[m.UID] = true
		next := partOf(m, a.cfg.NodeName, a.noteOf(m))
		a.mu.Lock()
		known := a.moves[m.UID]
		if next == partNone || known != nil && (known.busy || known.over(next)) {
			a.mu.Unlock()
			continue
		}
		if known == nil {
			known = &move{}
			a.moves[m.UID] = known
		}
		known.busy = true
		a.mu.Unlock()
		running.Go(func() {
			told := a.takePart(ctx, m, next)
			a.mu.Lock()
			known.end(next, told)
			a.mu.Unlock()
			if next == partPrepare {
				a.changes.tell() // what ended it was not looked at meanwhile
			}
		})
	}
	a.mu.Lock()
	for uid, known := range a.moves {
		if !present[uid] && !known.busy {
			delete(a.moves, uid)
		}
	}
	a.mu.Unlock()
	a.dropNotes(ctx, list.Items)
}

// takePart does one step. It returns whether the node's part is over, and told.
func (a *Agent) takePart(ctx context.Context, m *v1alpha1.Migration, next part) (told bool) {
	switch next {
	case partPrepare:
		return a.prepareMove(ctx, m)
	case partStop, partGiveUp, partKill:
		return a.stopForMove(ctx, m)
	case partImport:
		return a.importState(ctx, m)
	case partResume:
		return a.resumeOldPod(ctx, m)
	case partNone:
	}
	return false
}

// noteOf returns the note about a Migration's pod, nil where there is none.
func (a *Agent) noteOf(m *v1alpha1.Migration) *stopNote {
	note := a.stops.of(string(m.Spec.Pod.UID))
	if note == nil || note.Migration != ctrlclient.ObjectKeyFromObject(m) {
		return nil
	}
	return note
}

// dropNotes removes the notes of moves that are over. That of a pod that was killed
// stays while its Migration is open and its pod is here: until then kubelet may ask for
// its containers again.
func (a *Agent) dropNotes(ctx context.Context, migrations []v1alpha1.Migration) {
	for _, note := range a.stops.all() {
		if a.needed(ctx, note, migrations) {
			continue
		}
		if err := a.stops.drop(note.PodUID); err != nil {
			a.log.Error("forget a planned move that is over", "err", err)
			continue
		}
		a.confirmed.allow(note.PodUID)
	}
}

func (a *Agent) needed(ctx context.Context, note stopNote, migrations []v1alpha1.Migration) bool {
	for i := range migrations {
		m := &migrations[i]
		if ctrlclient.ObjectKeyFromObject(m) == note.Migration && m.Spec.Pod.UID == types.UID(note.PodUID) {
			if !m.Open() {
				return note.Committed && a.isHere(note.PodUID)
			}
			return note.Committed || m.Status.Source == nil || m.Status.Source.Error == ""
		}
	}
	// The cache has filled before anything was looked at. A Migration that somebody has
	// deleted tells nothing any more of a pod that was killed, nor need it.
	var known v1alpha1.Migration
	err := a.api.Get(ctx, note.Migration, &known)
	return ctrlclient.IgnoreNotFound(err) != nil || err == nil && known.Spec.Pod.UID == types.UID(note.PodUID)
}

// cachedMigration is a Migration as the cache has it, nil where it has none.
func (a *Agent) cachedMigration(ctx context.Context, m *v1alpha1.Migration) *v1alpha1.Migration {
	current := &v1alpha1.Migration{}
	if err := a.cache.Get(ctx, ctrlclient.ObjectKeyFromObject(m), current); err != nil || current.UID != m.UID {
		return nil
	}
	return current
}

// podHere is a pod of this node as the cache has it, by its UID; nil where it has none.
func (a *Agent) podHere(ctx context.Context, namespace, name string, uid types.UID) *corev1.Pod {
	pod := &corev1.Pod{}
	if err := a.cache.Get(ctx, ctrlclient.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil || pod.UID != uid {
		return nil
	}
	return pod
}
