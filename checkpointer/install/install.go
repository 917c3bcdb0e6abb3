// Package install puts Lifeboat's runtime onto a node.
package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Runtime copies the runtime from source to target, by way of a temporary file
// beside target, so that containerd never starts half a program. When target is
// the same already, nothing is written. It reports whether it wrote.
func Runtime(source, target string) (bool, error) {
	wanted, err := os.ReadFile(source)
	if err != nil {
		return false, fmt.Errorf("read the runtime: %w", err)
	}
	current, err := os.ReadFile(target)
	if err == nil && bytes.Equal(current, wanted) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read the installed runtime: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+"-*")
	if err != nil {
		return false, fmt.Errorf("install the runtime: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(wanted)
	if err == nil {
		err = temp.Chmod(0o755)
	}
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return false, fmt.Errorf("install the runtime: %w", err)
	}
	if err := os.Rename(temp.Name(), target); err != nil {
		return false, fmt.Errorf("install the runtime: %w", err)
	}
	return true, nil
}
