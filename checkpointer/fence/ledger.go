package fence

import (
	"errors"
	"maps"
	"slices"
	"sync"
)

// ledgerFile is the name of the ledger's file in the shared folder.
const ledgerFile = "frozen.json"

// ledger notes the cgroups that a fencer of this boot froze, so that only those
// are thawed again, by a fencer that was started later as well. A cgroup is
// noted before it is frozen. It is safe for concurrent use.
type ledger struct {
	path   string
	bootID string

	saving sync.Mutex // held while the file is being written

	mu      sync.Mutex
	entries map[string]bool
}

// ledgerContent is the ledger's file.
type ledgerContent struct {
	BootID  string   `json:"bootID"`
	Cgroups []string `json:"cgroups"`
}

// openLedger reads the ledger of this boot. Its error does not keep the ledger
// from being usable.
func openLedger(path, bootID string) (*ledger, error) {
	l := &ledger{path: path, bootID: bootID, entries: map[string]bool{}}
	var content ledgerContent
	found, err := readJSON(path, &content)
	if found && content.BootID == bootID {
		for _, cgroup := range content.Cgroups {
			l.entries[cgroup] = true
		}
	}
	return l, err
}

// paths are the cgroups in the ledger, sorted.
func (l *ledger) paths() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.entries))
}

// note notes a cgroup down in memory, and returns whether it is new. What is noted
// outlives the fencer only after save.
func (l *ledger) note(cgroup string) (isNew bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	isNew = !l.entries[cgroup]
	l.entries[cgroup] = true
	return isNew
}

// strike undoes note, in memory.
func (l *ledger) strike(cgroup string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.entries, cgroup)
}

// save writes the ledger as it is now. Whoever notes something down does not wait
// for a file that somebody else is writing.
func (l *ledger) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	err := writeJSON(l.path, 0o644, ledgerContent{BootID: l.bootID, Cgroups: l.paths()})
	if err != nil {
		return errors.Join(errors.New("write down which cgroups are frozen"), err)
	}
	return nil
}
