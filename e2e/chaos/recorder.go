package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/witness"
)

// lookEvery is how often the recorder looks for new logs. A container's log stays for
// much longer, also that of a pod that is deleted.
const lookEvery = 200 * time.Millisecond

// recorder keeps the logs of a namespace's containers as they lie on the nodes' disks,
// from outside: also of nodes that are cut off or off. It holds every file open, so that
// what a kubelet deletes can still be read.
type recorder struct {
	cluster   *cluster.Cluster
	namespace string
	stop      context.CancelFunc
	ended     chan error

	files map[string]*os.File // by path; the goroutine's until ended
}

func record(ctx context.Context, c *cluster.Cluster, namespace string) *recorder {
	ctx, cancel := context.WithCancel(ctx)
	r := &recorder{cluster: c, namespace: namespace, stop: cancel, ended: make(chan error, 1), files: map[string]*os.File{}}
	go func() {
		ticker := time.NewTicker(lookEvery)
		defer ticker.Stop()
		for {
			if err := r.look(); err != nil {
				r.ended <- err
				return
			}
			select {
			case <-ctx.Done():
				r.ended <- r.look()
				return
			case <-ticker.C:
			}
		}
	}()
	return r
}

// look opens the logs that have come since it looked last.
func (r *recorder) look() error {
	nodes, err := r.cluster.Nodes()
	if err != nil {
		return fmt.Errorf("look for logs: %w", err)
	}
	for _, node := range nodes {
		found, err := filepath.Glob(filepath.Join(r.cluster.NodeDisk(node.Name), "var/log/pods", r.namespace+"_*", "*", "*.log*"))
		if err != nil {
			return fmt.Errorf("look for logs of %s: %w", node.Name, err)
		}
		for _, path := range found {
			if r.files[path] != nil {
				continue
			}
			file, err := os.Open(path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read log of %s: %w", node.Name, err)
			}
			r.files[path] = file
		}
	}
	return nil
}

// end stops the recorder, which from then on can be read.
func (r *recorder) end() error {
	r.stop()
	return <-r.ended
}

// copies reads the copies of a workload; its pods' names are prefix and more. The recorder
// has ended.
func (r *recorder) copies(workload, prefix string) ([]witness.Copy, error) {
	var all []witness.Copy
	for _, path := range slices.Sorted(func(yield func(string) bool) {
		for path := range r.files {
			if !yield(path) {
				return
			}
		}
	}) {
		// …/<namespace>_<pod>_<uid>/<container>/<restarts>.log
		parts := strings.Split(filepath.Base(filepath.Dir(filepath.Dir(path))), "_")
		if len(parts) != 3 || !strings.HasPrefix(parts[1], prefix) {
			continue
		}
		node := r.nodeOf(path)
		name := fmt.Sprintf("%s (%.5s) on %s", parts[1], parts[2], node)
		if restarts := strings.TrimSuffix(filepath.Base(path), ".log"); restarts != "0" {
			name += ", container " + restarts
		}
		if _, err := r.files[path].Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("read log %s: %w", path, err)
		}
		copies, err := witness.ParseLog(r.files[path], workload, witness.Copy{Name: name, Pod: parts[2]})
		if err != nil {
			return nil, err
		}
		all = append(all, copies...)
	}
	return all, nil
}

func (r *recorder) nodeOf(path string) string {
	nodes, err := r.cluster.Nodes()
	if err != nil {
		return "?"
	}
	for _, node := range nodes {
		if strings.HasPrefix(path, r.cluster.NodeDisk(node.Name)+"/") {
			return node.Name
		}
	}
	return "?"
}

// close lets go of the logs.
func (r *recorder) close() {
	for _, file := range r.files {
		file.Close()
	}
}
