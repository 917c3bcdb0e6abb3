// Package machine runs one machine of a local cluster: a tree of processes in
// namespaces and control groups of its own, over a root file system shared with the
// others. The machine's first process is this package again, started anew from the
// program that uses it: it sets up the namespaces, starts the machine's services, keeps
// them running, and reaps. When it is killed, everything on the machine ends at once.
package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Where things are inside every machine.
const (
	// Binaries is a read-only view of the cluster's Kubernetes binaries.
	Binaries = "/opt/cluster/bin"
	// images holds the image archives that the machine loads into containerd.
	images = "/opt/cluster/images"
	// logs holds a file per service.
	logs = "/var/log/cluster"
	// Shared is a folder that all machines of a cluster have, as an NFS server's export is.
	Shared = "/opt/cluster/shared"
)

// A Spec says what a machine is made of. Paths are the host's, unless said otherwise.
type Spec struct {
	Cluster string
	Name    string // the host name

	NetNS string // the file that holds its network namespace
	Root  string // the shared root file system, never written
	Disk  string // a folder for what survives a power cut, see Disk's subfolders in Prepare
	Logs  string // a folder for the logs

	Binaries string // a folder, seen as Binaries inside
	Images   string // a folder of image archives to load into containerd; empty: the machine has no containerd

	Shared string // a folder, seen as Shared inside, also by other machines; empty: the machine has none

	// Persistent are folders inside the machine that lie on the host's disk itself,
	// not on the overlay: containerd's overlays cannot stand on an overlay.
	Persistent []string

	// BootID is what the machine shows as /proc/sys/kernel/random/boot_id.
	BootID string

	// Forward is the address, inside the machine, to which connections are passed on
	// that arrive at the listener given to Boot.
	Forward string

	Services []Service
}

// A Service is a program that runs for as long as its machine does.
type Service struct {
	Name string
	Argv []string // a program of the machine's root file system, or of Binaries
	// Wait holds conditions that are to be true before the service starts. They spare
	// services the failures, and the backoff, of starting before what they need.
	Wait []Condition
}

// A Condition is true once its one non-empty field is.
type Condition struct {
	Socket string // a Unix socket accepts connections
	TCP    string // an address accepts connections
	Ready  string // an HTTPS URL answers 200 to a client that checks no certificate
	Images bool   // every image archive is loaded
}

func (c Condition) String() string {
	switch {
	case c.Socket != "":
		return "socket " + c.Socket
	case c.TCP != "":
		return "address " + c.TCP
	case c.Ready != "":
		return "readiness of " + c.Ready
	default:
		return "images"
	}
}

// Prepare makes the folders of the machine's disk.
func (s Spec) Prepare() error {
	folders := []string{s.upper(), s.work(), s.mountPoint(), s.Logs}
	for _, inside := range s.Persistent {
		folders = append(folders, s.persistent(inside))
	}
	for _, folder := range folders {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("prepare disk of %s: %w", s.Name, err)
		}
	}
	return nil
}

// WriteFile puts a file on the disk of a machine that does not run. Its path is the
// one inside the machine, not below a folder of Persistent.
func (s Spec) WriteFile(path string, content []byte, mode os.FileMode) error {
	target := filepath.Join(s.upper(), path)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("write %s of %s: %w", path, s.Name, err)
	}
	if err := os.WriteFile(target, content, mode); err != nil {
		return fmt.Errorf("write %s of %s: %w", path, s.Name, err)
	}
	// Whatever the caller's umask: services of other users read some of them.
	if err := os.Chmod(target, mode); err != nil {
		return fmt.Errorf("write %s of %s: %w", path, s.Name, err)
	}
	return nil
}

func (s Spec) upper() string      { return filepath.Join(s.Disk, "upper") }
func (s Spec) work() string       { return filepath.Join(s.Disk, "work") }
func (s Spec) mountPoint() string { return filepath.Join(s.Disk, "root") }
func (s Spec) file() string       { return filepath.Join(s.Disk, "machine.json") }

func (s Spec) persistent(inside string) string {
	return filepath.Join(s.Disk, "persistent", inside)
}

func (s Spec) save() error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("save machine %s: %w", s.Name, err)
	}
	if err := os.WriteFile(s.file(), text, 0o600); err != nil {
		return fmt.Errorf("save machine %s: %w", s.Name, err)
	}
	return nil
}

func load(file string) (Spec, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Spec{}, fmt.Errorf("load machine: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(text, &s); err != nil {
		return Spec{}, fmt.Errorf("load machine %s: %w", file, err)
	}
	return s, nil
}
