package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/machine"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/provision"
)

// paths is where a cluster's things lie on the host.
type paths struct{ dir, name string }

func (p paths) cache() string               { return provision.CacheDir(p.dir) }
func (p paths) root() string                { return filepath.Join(p.dir, "clusters", p.name) }
func (p paths) lock() string                { return filepath.Join(p.dir, "clusters", p.name+".lock") }
func (p paths) state() string               { return filepath.Join(p.root(), "cluster.json") }
func (p paths) kubeconfig() string          { return filepath.Join(p.root(), "kubeconfig") }
func (p paths) images() string              { return filepath.Join(p.root(), "images") }
func (p paths) shared() string              { return filepath.Join(p.root(), "shared") }
func (p paths) netnsDir() string            { return filepath.Join(p.root(), "netns") }
func (p paths) netns(machine string) string { return filepath.Join(p.netnsDir(), machine) }
func (p paths) disk(machine string) string  { return filepath.Join(p.root(), "machines", machine) }
func (p paths) logs() string                { return filepath.Join(p.root(), "logs") }
func (p paths) pastLogs() string            { return filepath.Join(p.dir, "logs", p.name) }
func (p paths) machineState(machine string) string {
	return filepath.Join(p.root(), "machines", machine+".json")
}
func (p paths) machineLock(machine string) string {
	return filepath.Join(p.root(), "machines", machine+".lock")
}

// cgroup is the path of a cluster's control groups in every hierarchy.
func (p paths) cgroup() string { return "lifeboat-" + p.name }

// clusterState is what other programs have to know of a cluster. It is written before
// anything else of the cluster is made.
type clusterState struct {
	Name     string          `json:"name"`
	Nodes    int             `json:"nodes"`
	Port     int             `json:"port"` // of the API server, on the host's 127.0.0.1
	Binaries string          `json:"binaries"`
	NodeRoot string          `json:"nodeRoot"`
	Begun    time.Time       `json:"begun"`
	Complete bool            `json:"complete"` // the start has succeeded
	Keep     bool            `json:"keep"`
	Owner    machine.Process `json:"owner"` // the program that started it
}

// machineState is what is known of one machine. It is written under the machine's lock.
type machineState struct {
	Process    machine.Process `json:"process"` // its first process in this boot
	BootID     string          `json:"bootID"`
	NetworkCut bool            `json:"networkCut"`
}

func (p paths) loadCluster() (clusterState, error) {
	var s clusterState
	err := read(p.state(), &s)
	return s, err
}

func (p paths) loadMachine(name string) (machineState, error) {
	var s machineState
	err := read(p.machineState(name), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	return s, err
}

func read(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// write replaces a state file whole, so that a reader never sees half of one.
func write(path string, what any) error {
	text, err := json.MarshalIndent(what, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
