package fence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// StateFile is the name of the file that holds State, in the folder that the
// fencer shares with the container runtime.
const StateFile = "fence.json"

// State is what the fencer publishes on its node. It is replaced as a whole.
type State struct {
	// State is the record's newest known state; empty where it is absent.
	State v1alpha1.FenceState `json:"state"`
	// Epoch is what a container that is created now is registered under. A
	// container without a known epoch is registered under 0 and is killed when
	// the record is first read.
	Epoch int64 `json:"epoch"`
	// PermittedUntil is when the permission to run protected pods ends, in
	// nanoseconds on CLOCK_BOOTTIME.
	PermittedUntil Instant `json:"permittedUntil"`
	// BootID is the boot that wrote this.
	BootID string `json:"bootID"`
}

// ReadState reads what the fencer of this node has published in the folder that it
// shares. It returns false where there is none yet in this boot.
func ReadState(folder string) (state State, found bool, err error) {
	found, err = readJSON(filepath.Join(folder, StateFile), &state)
	return state, found, err
}

// Permits says whether protected pods may run on the node at an instant.
func (s State) Permits(now Instant) bool {
	return s.State == v1alpha1.FenceRunning && now < s.PermittedUntil
}

// readJSON reads a file that writeJSON wrote. It returns false where there is none.
func readJSON(path string, into any) (bool, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}

// writeJSON replaces a file in one step. It does not wait for a disk: the
// folder lies on a tmpfs, and what it holds ends with the boot.
func writeJSON(path string, mode os.FileMode, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	_, err = temporary.Write(append(content, '\n'))
	err = errors.Join(err, temporary.Chmod(mode), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(temporary.Name()))
	}
	return err
}
