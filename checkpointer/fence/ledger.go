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
// noted before it is frozen and struck out after it is thawed.
type ledger struct {
	path   string
	bootID string

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

func (l *ledger) add(cgroup string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries[cgroup] {
		return nil
	}
	l.entries[cgroup] = true
	return l.save()
}

func (l *ledger) remove(cgroup string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.entries[cgroup] {
		return nil
	}
	delete(l.entries, cgroup)
	return l.save()
}

func (l *ledger) save() error {
	err := writeJSON(l.path, ledgerContent{BootID: l.bootID, Cgroups: slices.Sorted(maps.Keys(l.entries))})
	if err != nil {
		return errors.Join(errors.New("write down which cgroups are frozen"), err)
	}
	return nil
}
