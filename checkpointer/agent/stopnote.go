package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// stopNote is what the node's disk keeps of a pod that is being stopped for good. A
// later checkpointer knows from it which way to go: back, to a pod that runs and an
// error, or, once it is committed, on, to a pod that was killed.
type stopNote struct {
	Migration ctrlclient.ObjectKey `json:"migration"`
	PodUID    string               `json:"podUID"`
	// Committed is whether the pod's processes are ended, or about to be.
	Committed bool `json:"committed,omitempty"`
	// Cgroups are those of the containers that are killed.
	Cgroups []string `json:"cgroups,omitempty"`
	// Kept is what was to be done for established connections; nil for nothing.
	Kept *keptConnections `json:"kept,omitempty"`
	// Source is what is told when they have ended.
	Source v1alpha1.SourceStatus `json:"source"`
}

// stops are the notes of a node, in a folder. It is safe for concurrent use.
type stops struct {
	folder string

	mu    sync.Mutex
	notes map[string]stopNote // by pod UID
}

// openStops reads what an earlier checkpointer has left. A note that cannot be read is
// an error: its pod might run twice.
func openStops(folder string) (*stops, error) {
	s := &stops{folder: folder, notes: map[string]stopNote{}}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for the notes of planned moves: %w", err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("read the notes of planned moves: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".json") {
			continue // one that was being written
		}
		var note stopNote
		raw, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err == nil {
			err = json.Unmarshal(raw, &note)
		}
		if err != nil {
			return nil, fmt.Errorf("read the note of a planned move: %w; see what became of the pod, and remove %s", err, filepath.Join(folder, entry.Name()))
		}
		s.notes[note.PodUID] = note
	}
	return s, nil
}

// of returns the note of a pod, nil where there is none.
func (s *stops) of(podUID string) *stopNote {
	s.mu.Lock()
	defer s.mu.Unlock()
	if note, ok := s.notes[podUID]; ok {
		return &note
	}
	return nil
}

// all returns every note.
func (s *stops) all() []stopNote {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []stopNote
	for _, note := range s.notes {
		all = append(all, note)
	}
	return all
}

// committed is whether a pod is killed, or about to be.
func (s *stops) committed(podUID string) bool {
	note := s.of(podUID)
	return note != nil && note.Committed
}

// write notes a pod down, on stable storage. After an error either note may be there.
func (s *stops) write(note stopNote) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := json.Marshal(note)
	if err == nil {
		err = writeDurably(s.file(note.PodUID), raw)
	}
	if err != nil {
		return fmt.Errorf("note down that pod %s is stopped: %w", note.PodUID, err)
	}
	s.notes[note.PodUID] = note
	return nil
}

// drop removes the note of a pod, also from stable storage.
func (s *stops) drop(podUID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := os.Remove(s.file(podUID))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = syncFolder(s.folder)
	}
	if err != nil {
		return fmt.Errorf("remove the note of pod %s: %w", podUID, err)
	}
	delete(s.notes, podUID)
	return nil
}

func (s *stops) file(podUID string) string { return filepath.Join(s.folder, podUID+".json") }

// writeDurably replaces a file as a whole; when it returns, the file outlives the node's power.
func writeDurably(name string, content []byte) error {
	next, err := os.OpenFile(name+".next", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = next.Write(content)
	err = errors.Join(err, next.Sync(), next.Close())
	if err == nil {
		err = os.Rename(name+".next", name)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(name))
	}
	return err
}

func syncFolder(name string) error {
	folder, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
